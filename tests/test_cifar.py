"""CIFAR-10 is found, checked before it is unpickled, and its absence is told with the way out."""

import hashlib
import pickle
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import vision
from common.datasets import cifar
from common.datasets.images import DataSet
from common.datasets.registry import load_dataset
from common.errors import DataError

vision.install()


def load(path: Path) -> DataSet:
    return load_dataset("CIFAR10", path, num_classes=10, input_shape=(3, 32, 32), seed=1, progress=False)


def pickled_in_2009(batch: np.ndarray[Any, Any], labels: list[int]) -> bytes:
    """Pickle a batch as Python 2 did: the data type says ``align=0``, of which numpy 2.4.0 to 2.4.4 warns."""
    content = pickle.dumps({"data": batch, "labels": labels}, protocol=2)
    false_true_tuple, zero_one_tuple = b"\x89\x88\x87", b"K\x00K\x01\x87"
    assert false_true_tuple in content
    return content.replace(false_true_tuple, zero_one_tuple, 1)


def fake_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray[Any, Any], Path]:
    """Write a folder in CIFAR-10's format, 4 images a batch, and let torchvision expect its md5s."""
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  a second, for these tests only

    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(24, 32, 32, 3), dtype=np.uint8)
    md5s = {}
    for number, (name, _) in enumerate(CIFAR10.train_list + CIFAR10.test_list):
        batch = pixels[4 * number : 4 * number + 4].transpose(0, 3, 1, 2).reshape(4, -1)
        content = pickled_in_2009(batch, [number, 1, 2, 3])
        (folder / name).write_bytes(content)
        md5s[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    meta = pickle.dumps({"label_names": list("abcdefghij")}, protocol=2)
    (folder / "batches.meta").write_bytes(meta)
    meta_md5 = hashlib.md5(meta, usedforsecurity=False).hexdigest()
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, part, [[name, md5s[name]] for name, _ in getattr(CIFAR10, part)])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta_md5})
    return pixels, folder


def check_is_cifar(data: DataSet, pixels: np.ndarray[Any, Any]) -> None:
    assert np.array_equal(data.train.images, pixels[:20])
    assert np.array_equal(data.test.images, pixels[20:])
    assert data.train.labels.tolist() == [label for first in range(5) for label in (first, 1, 2, 3)]
    assert (data.mean, data.std, data.augment) == (cifar.MEAN, cifar.STD, True)


@pytest.mark.slow
def test_cifar_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, folder = fake_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)

    check_is_cifar(load(tmp_path), pixels)
    check_is_cifar(load(folder), pixels)


@pytest.mark.slow
def test_cifar_is_read_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    pixels, folder = fake_cifar(tmp_path / "elsewhere", monkeypatch)
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5)

    check_is_cifar(load(tmp_path / "data"), pixels)
    check_is_cifar(load(archive), pixels)
    assert list((tmp_path / "data").iterdir()) == [archive]


@pytest.mark.slow
def test_a_damaged_batch_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = fake_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    (folder / "data_batch_3").write_bytes(b"cos\nabort\n(tR.")  # unpickling this would end the process

    with pytest.raises(DataError, match=r"cifar-10-batches-py is incomplete or damaged .*remove that folder"):
        load(tmp_path)


@pytest.mark.slow
def test_a_damaged_archive_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half a download")

    with pytest.raises(DataError, match=r"tar\.gz is damaged .*get it again from https://"):
        load(tmp_path)


@pytest.mark.slow
def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    def offline(self: CIFAR10) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(CIFAR10, "download", offline)

    with pytest.raises(DataError) as caught:
        load(tmp_path / "new")

    message = str(caught.value)
    assert message.startswith(f"CIFAR-10 is not in {tmp_path / 'new'} and could not be downloaded (<urlopen error ")
    assert CIFAR10.url in message
    assert message.endswith("or use --dataset digits or --dataset npz:FILE")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.slow
def test_a_download_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415

    pixels, folder = fake_cifar(tmp_path / "elsewhere", monkeypatch)

    def online(self: CIFAR10) -> None:
        folder.rename(Path(self.root) / self.base_folder)

    monkeypatch.setattr(CIFAR10, "download", online)

    check_is_cifar(load(tmp_path / "new"), pixels)
    check_is_cifar(load(tmp_path / "new"), pixels)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["cifar-10-batches-py"]
