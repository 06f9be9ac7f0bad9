"""Keras's reviews are read without unpickling, as Keras gives them; other pickles are refused, and nothing runs."""

import hashlib
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.datasets import imdb
from common.datasets.download import Digest
from common.datasets.imdb import load_imdb
from common.datasets.pickled_lists import lists_of_numbers
from common.datasets.texts import TextSet
from common.errors import DataError

LISTS = [[1, 14, 300, 70_000], [], list(range(1, 1500)), [255, 256, 65_535, 65_536]]


def objects(rows: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def npy(value: object, protocol: int, shape: tuple[int, ...] | None = None) -> bytes:
    """An .npy file of objects, as NumPy writes it under a protocol."""
    stream = BytesIO()
    shape = getattr(value, "shape", (1,)) if shape is None else shape
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": shape})
    return stream.getvalue() + pickle.dumps(value, protocol)


def write(folder: Path, rows: list[list[int]] = LISTS, changes: Mapping[str, bytes] | None = None) -> Path:
    contents = {"x": npy(objects(rows), 4), "y": plain(np.arange(len(rows)) % 2)}
    with zipfile.ZipFile(folder / "imdb.npz", "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", (changes or {}).get(name, contents[name[0]]))
    return folder / "imdb.npz"


def plain(array: np.ndarray[Any, Any]) -> bytes:
    """An .npy file of numbers."""
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def load(path: Path, **more: Any) -> TextSet:
    values = {"num_classes": 2, "length": 6, "vocabulary": 400, "progress": False, **more}
    return load_imdb(path, values.pop("num_classes"), **values)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_lists_are_read_under_every_protocol(protocol: int) -> None:
    assert lists_of_numbers(npy(objects(LISTS), protocol), "here") == LISTS


def test_lists_that_are_one_and_the_same_are_both_read() -> None:
    rows = [[1, 2]] * 3
    assert lists_of_numbers(npy(objects(rows), 4), "here") == rows


def test_texts_are_as_published(tmp_path: Path) -> None:
    data = load(write(tmp_path))

    assert data.train.tokens.tolist() == [
        [1, 4, 17, 303, 2, 0],
        [1, 0, 0, 0, 0, 0],
        [1, 4, 5, 6, 7, 8],
        [1, 258, 259, 2, 2, 0],
    ]
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert load(tmp_path).test.tokens.shape == (4, 6)


@pytest.mark.slow
def test_they_are_what_keras_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "keras" not in sys.modules:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras: Any = pytest.importorskip("keras")
    published, pad_sequences = keras.datasets.imdb, keras.utils.pad_sequences
    random = np.random.default_rng(0)
    rows = [random.integers(1, 20_000, size=size).tolist() for size in random.integers(1, 400, size=50)]
    path = write(tmp_path, rows)
    monkeypatch.setattr(sys.modules[published.load_data.__module__], "get_file", lambda **_: str(path))
    (x, y), _ = published.load_data(num_words=10_000)
    order = np.arange(50)
    np.random.RandomState(113).shuffle(order)  # as Keras does

    data = load(path, length=200, vocabulary=10_000)

    expected = pad_sequences(x, maxlen=200, padding="post", truncating="post")
    assert np.array_equal(data.train.tokens[order], expected)
    assert np.array_equal(data.train.labels[order], y)


class Trap:
    """Would make a folder where it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.made = call, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: Trap(os.mkdir, folder),
        lambda folder: objects([[1, 2], [Trap(os.mkdir, folder)]]),
        lambda folder: objects([Trap(os.mkdir, folder), [1]]),
        lambda folder: [[1, 2]],
        lambda folder: objects([[1, 2.5]]),
        lambda folder: objects([["a"]]),
        lambda folder: objects([{1: 2}]),
        lambda folder: objects([(1, 2)]),
        lambda folder: objects([[True]]),
        lambda folder: objects([[1 << 40]]),
        lambda folder: None,
    ],
)
def test_anything_else_is_refused_and_nothing_runs(
    tmp_path: Path, make: Callable[[str], object], protocol: int
) -> None:
    data = npy(make(str(tmp_path / "made")), protocol)

    with pytest.raises(
        DataError, match=r"^here (holds something else than lists of whole numbers|is damaged, or is no)"
    ):
        lists_of_numbers(data, "here")

    assert not (tmp_path / "made").exists()


def test_damaged_bytes_are_refused_whatever_they_are() -> None:
    whole = npy(objects(LISTS[:2]), 4)
    random = np.random.default_rng(0)
    for length in range(len(whole)):
        with pytest.raises(DataError):
            lists_of_numbers(whole[:length], "here")
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        try:
            rows = lists_of_numbers(bytes(damaged), "here")
        except DataError:
            continue
        assert all(type(each) is int for row in rows for each in row)


def test_plain_arrays_are_no_lists() -> None:
    with pytest.raises(DataError, match="holds something else than lists of whole numbers"):
        lists_of_numbers(plain(np.arange(3)), "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": b"\x93NUMPY"}, "x_train is damaged, or is no array of lists of whole numbers"),
        ({"x_test": npy(objects([[1]]), 4)}, "1 test texts but 4 labels"),
        ({"y_train": plain(np.zeros((4, 1), int))}, "y_train is int64 of shape (4, 1), but must be integers (N,)"),
        ({"y_test": npy(objects([0, 1, 0, 1]), 4)}, "y_test: Object arrays cannot be loaded when allow_pickle=False"),
        ({"y_train": plain(np.array([0, 1, 2, 0]))}, "train labels go up to 2 but --num_classes is 2"),
    ],
)
def test_a_file_that_is_another_one(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load(write(tmp_path, changes=changes))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "imdb.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"imdb\.npz cannot be read \(File is not a zip file\): remove it and get it"):
        load(path)
    np.savez(path, a=np.arange(3))
    with pytest.raises(DataError, match=r"has no x_train\.npy, y_train\.npy: it is not Keras's imdb\.npz"):
        load(path)
    with pytest.raises(DataError, match="imdb has 2 classes but --num_classes is 10: pass --num_classes 2"):
        load(path, num_classes=10)


def test_it_is_downloaded_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    source = write(tmp_path / "there")
    here = tmp_path / "here"
    monkeypatch.setattr(imdb, "URL", source.as_uri())

    with pytest.raises(DataError, match=r"gave another file than was published \(its sha256 is [0-9a-f]{64}\): put"):
        load(here)
    assert list(here.iterdir()) == []

    monkeypatch.setattr(imdb, "_DIGEST", Digest("sha256", hashlib.sha256(source.read_bytes()).hexdigest()))
    assert load(here).train.tokens.shape == (4, 6)
    assert (here / "imdb.npz").read_bytes() == source.read_bytes()

    monkeypatch.setattr(imdb, "URL", (tmp_path / "nowhere").as_uri())
    with pytest.raises(DataError, match=r"imdb\.npz is not in .*other and could not be downloaded .* --dataset csv"):
        load(tmp_path / "other")
