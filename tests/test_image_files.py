"""Images in folders, Tiny ImageNet's layout and MNIST's files; and each defect of them has its own sentence."""

import gzip
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import ExifTags, Image

from common.datasets import mnist
from common.datasets.batches import Batches
from common.datasets.image_files import decoded
from common.datasets.images import DataSet
from common.datasets.jitter import RATIO, SCALE, _box, cropped_and_jittered
from common.datasets.registry import load_dataset
from common.errors import DataError

REAL_DATA = Path(os.environ.get("TANDEM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SHAPE = (3, 16, 16)


def load(name: str, path: Path = Path("nowhere"), *, num_classes: int = 2, shape: tuple[int, ...] = SHAPE) -> DataSet:
    return load_dataset(name, path, num_classes=num_classes, input_shape=shape, seed=1, progress=False)


def paint(path: Path, colour: Sequence[int], size: tuple[int, int] = (16, 16), mode: str = "RGB", **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(colour)).convert(mode).save(path, **more)


def classes(root: Path, count: int = 10, names: Sequence[str] = ("cats", "dogs")) -> Path:
    for number, name in enumerate(names):
        for i in range(count):
            paint(root / name / f"{i}.png", (10 * number, i, 0))
    return root


def test_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    data, again = load(f"folder:{classes(tmp_path)}"), load(f"folder:{tmp_path}")

    assert data.train.images.shape == (16, *SHAPE[1:], 3)
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert np.array_equal(data.test.images, again.test.images)
    for split in (data.train, data.test):
        assert np.array_equal(split.images[:, 0, 0, 0], 10 * split.labels)
    assert not data.augment
    assert data.mean == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize("part", ["val", "valid", "test"])
def test_a_split_of_ones_own(tmp_path: Path, part: str) -> None:
    classes(tmp_path / "train", 4)
    classes(tmp_path / part, 3, ["dogs"])

    data = load(f"folder:{tmp_path}")

    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.labels.tolist() == [1] * 3


def test_all_kinds_of_images_are_read(tmp_path: Path) -> None:
    classes(tmp_path, 6)
    more = tmp_path / "cats" / "more"
    paint(more / "large.jpg", (200, 100, 50), (640, 320), quality=95)
    paint(more / "grey.PNG", (90, 90, 90), mode="L")
    paint(more / "palette.gif", (0, 0, 255), mode="P")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    paint(more / "turned.jpeg", (0, 255, 0), (8, 4), exif=exif)
    paint(tmp_path / "cats" / ".hidden" / "0.png", (1, 1, 1))
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    (tmp_path / ".git").mkdir()

    data = load(f"folder:{tmp_path}")

    images, labels = (
        np.concatenate([data.train.images, data.test.images]),
        np.append(data.train.labels, data.test.labels),
    )
    assert np.bincount(labels).tolist() == [10, 6]
    centres = images[:, 8, 8].astype(int)
    for colour in ((200, 100, 50), (90, 90, 90), (0, 0, 255), (0, 255, 0)):
        assert (np.abs(centres - colour).max(1) <= 4).any(), colour
    assert load(f"folder:{tmp_path}", shape=(1, 12, 20)).train.images.shape[1:] == (12, 20, 1)


def test_images_are_cropped_to_the_models_format(tmp_path: Path) -> None:
    classes(tmp_path, 6)
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 255
    Image.fromarray(wide).save(tmp_path / "cats" / "wide.png")

    data = load(f"folder:{tmp_path}")

    assert (np.concatenate([data.train.images, data.test.images]).min((1, 2, 3)) == 255).any()


def test_defects_of_folders(tmp_path: Path) -> None:
    def refused(message: str, **more: Any) -> None:
        with pytest.raises(DataError, match=re.escape(message)) as caught:
            load(f"folder:{tmp_path}", **more)
        assert "\n" not in str(caught.value)

    refused(f"{tmp_path} has no folders; each class must have one")
    classes(tmp_path, 2)
    refused("has 2 classes but --num_classes is 10: pass --num_classes 2", num_classes=10)
    refused("there are too few images for a test split")
    classes(tmp_path, 6)
    (tmp_path / "empty").mkdir()
    refused(f"the folder {tmp_path / 'empty'} has no images in it: put some there, or remove it", num_classes=3)
    (tmp_path / "empty").rmdir()
    refused("images have 1 or 3 channels but the model takes 4", shape=(4, 8, 8))
    (tmp_path / "dogs" / "broken.jpg").write_bytes(b"no image")
    refused(f"{tmp_path / 'dogs' / 'broken.jpg'} is no image that can be read (cannot identify image file")
    paint(tmp_path / "dogs" / "broken.jpg", (1, 2, 3), (64, 64))
    content = (tmp_path / "dogs" / "broken.jpg").read_bytes()
    (tmp_path / "dogs" / "broken.jpg").write_bytes(content[:-20])
    refused(f"{tmp_path / 'dogs' / 'broken.jpg'} is no image that can be read (image file is truncated")
    (tmp_path / "dogs" / "broken.jpg").write_bytes(b"")
    refused("is no image that can be read (cannot identify")
    with pytest.raises(DataError, match=f"there is no folder {tmp_path / 'x'}"):
        load(f"folder:{tmp_path / 'x'}")


def test_a_class_of_the_test_images_alone(tmp_path: Path) -> None:
    classes(tmp_path / "train", 2)
    classes(tmp_path / "val", 2, ["mice"])
    with pytest.raises(DataError, match=r"val has the class mice, which .*train has not"):
        load(f"folder:{tmp_path}")


def test_more_images_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Little:
        total = 1 << 12

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with pytest.raises(DataError, match=r"20 images at the model's size would take .* GiB of memory; the limit"):
        load(f"folder:{classes(tmp_path)}")


def tiny(root: Path, names: Sequence[str] = ("n03", "n01", "n02")) -> Path:
    """The public archive's folders."""
    lines = []
    for number, name in enumerate(sorted(names)):
        for i in range(3):
            paint(root / "train" / name / "images" / f"{name}_{i}.JPEG", (80 * number, 0, 0), (64, 64))
        paint(root / "val" / "images" / f"val_{number}.JPEG", (80 * number, 0, 0), (64, 64))
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    return root


def test_tiny_imagenet_in_its_public_layout(tmp_path: Path) -> None:
    tiny(tmp_path / "tiny-imagenet-200")

    for path in (tmp_path, tmp_path / "tiny-imagenet-200"):
        data = load("tiny_imagenet", path, num_classes=3, shape=(3, 64, 64))
        assert data.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
        assert data.test.labels.tolist() == [0, 1, 2]
        assert np.abs(data.test.images[:, 32, 32, 0].astype(int) - [0, 80, 160]).max() < 4
        assert data.augment
        assert data.change is cropped_and_jittered
    assert load("tiny_imagenet", tmp_path, num_classes=2).train.labels.max() == 1  # the first of them


def test_defects_of_tiny_imagenet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no tiny-imagenet-200 with train and val in .*: get http.*unzip it"):
        load("tiny_imagenet", tmp_path)
    root = tiny(tmp_path)
    with pytest.raises(DataError, match="has 3 classes but --num_classes is 20: pass --num_classes 3, or fewer for"):
        load("tiny_imagenet", root, num_classes=20)
    table = root / "val" / "val_annotations.txt"
    table.write_text("val_0.JPEG n01\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt: line 1 has no tab between a file's name and its class"):
        load("tiny_imagenet", root)
    table.write_text("val_0.JPEG\tn09\n")
    with pytest.raises(DataError, match="names no image of the classes n01, n02"):
        load("tiny_imagenet", root)
    table.write_text("val_9.JPEG\tn01\n")
    with pytest.raises(DataError, match=r"val_9\.JPEG is no image that can be read \(.*No such file"):
        load("tiny_imagenet", root)
    table.unlink()
    with pytest.raises(DataError, match=r"val_annotations\.txt cannot be read"):
        load("tiny_imagenet", root)


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, packed: bool = False) -> np.ndarray[Any, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for name in mnist.FILES:
        content = idx(images if "images" in name else labels)
        (folder / f"{name}.gz" if packed else folder / name).write_bytes(gzip.compress(content) if packed else content)
    return images


@pytest.mark.parametrize(("below", "packed"), [("", False), ("MNIST/raw", True)])
def test_mnist_from_its_files(tmp_path: Path, below: str, packed: bool) -> None:
    images = write_mnist(tmp_path / below, packed=packed)

    data = load("mnist", tmp_path, num_classes=10, shape=(3, 28, 28))

    assert np.array_equal(data.train.images, images[..., np.newaxis].repeat(3, -1))
    assert data.test.labels.tolist() == [*range(10)] * 2
    assert data.mean == (0.13066,) * 3
    assert load("MNIST", tmp_path, num_classes=10, shape=(3, 32, 32)).train.images.shape == (20, 32, 32, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x0d\x01\0\0\0\0", "is no IDX file of bytes"),
        (b"\0\0\x08\x02\0\0\0\x05", "announces 5x0 bytes and has 0"),
        (idx(np.zeros(7, np.uint8))[:-2], "announces 7 bytes and has 5"),
        (b"", "is no IDX file of bytes"),
        (idx(np.zeros(7, np.uint8)), "20 train images but 7 train labels"),
    ],
)
def test_defects_of_mnists_files(tmp_path: Path, content: bytes, message: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("mnist", tmp_path, num_classes=10)
    with pytest.raises(DataError, match="mnist has 10 classes but --num_classes is 2"):
        load("mnist", tmp_path)


def test_mnist_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_URL", (tmp_path / "nowhere").as_uri() + "/")
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte\.gz is not in .*raw and could not be downloaded .* put"
    ):
        load("mnist", tmp_path, num_classes=10)


def test_crops_are_of_the_published_share_and_form() -> None:
    random = np.random.default_rng(0)
    boxes = np.array([_box(640, 480, random) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]

    share, ratio = width * height / (640 * 480), width / height
    assert SCALE[0] * 0.98 < share.min() < 0.1
    assert 0.9 < share.max() <= 1.0
    assert RATIO[0] * 0.98 < ratio.min() < ratio.max() < RATIO[1] * 1.02
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= (640, 480)).all()


def test_jitter_follows_the_seed_and_leaves_the_images_alone() -> None:
    images = np.random.default_rng(1).integers(0, 256, (8, 24, 24, 3), np.uint8)
    before = images.copy()

    first, again, other = (cropped_and_jittered(images, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert np.array_equal(images, before)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    grey = cropped_and_jittered(images[..., :1], np.random.default_rng(1))
    assert grey.shape == (8, 24, 24, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_real_tiny_imagenet_and_its_order_for_any_number_of_workers() -> None:
    if not (REAL_DATA / "tiny-imagenet-200").exists():
        pytest.skip(f"{REAL_DATA} has no tiny-imagenet-200: set TANDEM_TEST_DATA to a folder with it")

    data = load("tiny_imagenet", REAL_DATA, num_classes=4, shape=(3, 64, 64))

    assert np.bincount(data.train.labels).tolist() == [150] * 4
    assert np.bincount(data.test.labels).tolist() == [50] * 4
    alone, helped = (Batches(data.train, data, 100, 3, True, workers).epoch(1) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.inputs, other.inputs)


def test_a_broken_image_is_told_where_a_library_has_patched_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Image.open

    def looks_for_a_plugin(path: Path) -> Image.Image:
        try:
            return opened(path)
        except OSError:
            raise ModuleNotFoundError("No module named 'pi_heif'")  # noqa: B904  as it is done there

    monkeypatch.setattr(Image, "open", looks_for_a_plugin)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png is no image that can be read \(cannot identify image file"):
        decoded([tmp_path / "broken.png"], (3, 8, 8), "here", progress=False)
