"""Data sets are read and checked the same way every time, and each defect has its own sentence."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.datasets.images import DataSet, channel_statistics, scaled
from common.datasets.registry import load_dataset
from common.errors import DataError, UsageError

SHAPE = (3, 32, 32)
Arrays = dict[str, Any]


def load(
    name: str, path: Path = Path("nowhere"), *, num_classes: int = 10, shape: tuple[int, int, int] = SHAPE
) -> DataSet:
    return load_dataset(name, path, num_classes=num_classes, input_shape=shape, seed=1, progress=False)


def images(count: int, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(256, size=(count, height, width, channels), dtype=np.uint8)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'cifar'; did you mean cifar10\? .* synthetic, .* npz:FILE"):
        load("cifar")


@pytest.mark.slow
def test_digits_are_real_and_split_evenly() -> None:
    digits = load("DIGITS")

    assert digits.train.images.shape == (1438, 32, 32, 3)
    assert digits.test.images.shape == (359, 32, 32, 3)
    assert digits.train.images.max() == 255
    counts = np.bincount(digits.test.labels) / np.bincount(np.append(digits.train.labels, digits.test.labels))
    assert counts == pytest.approx(0.2, abs=0.01)
    assert not digits.augment
    assert len(digits.mean) == len(digits.std) == 3


@pytest.mark.slow
def test_the_split_of_digits_does_not_follow_the_seed() -> None:
    first, second = (
        load_dataset("digits", Path(), num_classes=10, input_shape=(1, 8, 8), seed=seed) for seed in (1, 2)
    )

    assert np.array_equal(first.test.images, second.test.images)


@pytest.mark.slow
def test_too_few_classes_are_told_with_both_numbers() -> None:
    message = "digits has 10 classes but --num_classes is 5: pass --num_classes 10"
    with pytest.raises(DataError, match=re.escape(message)):
        load("digits", num_classes=5)


def test_synthetic_images_follow_the_seed() -> None:
    first, again = load("synthetic", shape=(3, 8, 8)), load("synthetic", shape=(3, 8, 8))
    other = load_dataset("synthetic", Path(), num_classes=10, input_shape=(3, 8, 8), seed=2)

    assert first.train.images.shape == (2048, 8, 8, 3)
    assert first.test.images.shape == (512, 8, 8, 3)
    assert np.array_equal(first.train.images, again.train.images)
    assert not np.array_equal(first.train.images, other.train.images)
    assert np.bincount(first.train.labels).min() >= 204


def test_synthetic_images_can_be_learned() -> None:
    data = load("synthetic", shape=(3, 8, 8))
    train = data.train.images.reshape(2048, -1).astype(float)
    centres = np.stack([train[data.train.labels == label].mean(axis=0) for label in range(10)])

    test = data.test.images.reshape(512, 1, -1).astype(float)
    nearest = np.square(test - centres).sum(axis=2).argmin(axis=1)

    assert (nearest == data.test.labels).mean() > 0.99


def test_whole_number_enlargement_repeats_pixels() -> None:
    source = images(3, 4, 4)

    large = scaled(source, 8, 12)

    assert large.shape == (3, 8, 12, 3)
    assert np.array_equal(large[:, ::2, ::3], source)
    assert np.array_equal(large[:, 1::2, 2::3], source)


@pytest.mark.parametrize("size", [(6, 6), (12, 12), (11, 5)])
def test_other_sizes_are_bilinear(size: tuple[int, int]) -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None] * 30, (600, 8, 8, 3))

    resized = scaled(ramp.copy(), *size)

    assert resized.shape == (600, *size, 3)
    assert (np.diff(resized[..., 0].astype(int), axis=1) >= 0).all()
    assert resized.mean() == pytest.approx(ramp.mean(), abs=1)


def test_statistics_are_those_of_the_whole_array() -> None:
    source = images(1300)

    mean, std = channel_statistics(source)

    assert mean == pytest.approx((source / 255).mean(axis=(0, 1, 2)))
    assert std == pytest.approx((source / 255).std(axis=(0, 1, 2)))


def test_a_constant_channel_has_no_zero_deviation() -> None:
    assert channel_statistics(np.full((2, 4, 4, 1), 7, np.uint8))[1] == (1 / 255,)


def arrays(**changes: Any) -> Arrays:
    good = {
        "train_images": images(6),
        "train_labels": np.arange(6),
        "test_images": images(4),
        "test_labels": np.arange(4),
    }
    return good | changes


def write_npz(folder: Path, content: Arrays) -> str:
    np.savez(folder / "own.npz", **content)
    return f"npz:{folder / 'own.npz'}"


def test_npz_is_read(tmp_path: Path) -> None:
    data = load(write_npz(tmp_path, arrays()), shape=(3, 8, 8))

    assert np.array_equal(data.train.images, images(6))
    assert data.train.labels.dtype == np.int64
    assert data.mean == pytest.approx((images(6) / 255).mean(axis=(0, 1, 2)))
    assert not data.augment


@pytest.mark.parametrize("grey", [images(6)[..., 0], images(6)[..., :1]])
def test_grey_npz_images_become_what_the_model_takes(tmp_path: Path, grey: np.ndarray[Any, Any]) -> None:
    data = load(write_npz(tmp_path, arrays(train_images=grey)))

    assert data.train.images.shape == (6, 32, 32, 3)
    assert np.array_equal(data.train.images[:, ::4, ::4, 2], images(6)[..., 0])
    assert len(set(data.mean)) == 1
    assert len(data.mean) == len(data.std) == 3


DEFECTS: dict[str, tuple[Arrays, str]] = {
    "float images": ({"train_images": images(6) / 255}, "train images are float64, but must be uint8"),
    "flat images": (
        {"test_images": images(4).reshape(4, -1)},
        "test images have shape (4, 192), but must be",
    ),
    "float labels": ({"train_labels": np.zeros(6)}, "train labels are float64, but must be integers"),
    "one-hot labels": (
        {"test_labels": np.eye(4, dtype=int)},
        "test labels have shape (4, 4), but must be (N,)",
    ),
    "too few labels": ({"train_labels": np.arange(5)}, "6 train images but 5 train labels"),
    "nothing": (
        {"test_images": images(0), "test_labels": np.arange(0)},
        "the test images have shape (0, 8, 8, 3): there is nothing in them",
    ),
    "one image": (
        {"train_images": images(1), "train_labels": np.arange(1)},
        "1 training image, but batch normalisation needs at least 2",
    ),
    "negative label": (
        {"train_labels": np.arange(6) - 1},
        "train labels go down to -1, but must be counted from 0",
    ),
    "large label": (
        {"test_labels": np.arange(4) + 9},
        "test labels go up to 12 but --num_classes is 10: pass --num_classes 13",
    ),
    "four channels": (
        {"train_images": images(6, channels=4)},
        "images have 4 channels but the model takes 3",
    ),
    "pickled objects": ({"train_labels": np.array([{}] * 6)}, "unreadable: Object arrays cannot be loaded"),
}


@pytest.mark.parametrize(("change", "message"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_of_an_npz_file_has_its_own_sentence(tmp_path: Path, change: Arrays, message: str) -> None:
    name = write_npz(tmp_path, arrays(**change))

    with pytest.raises(DataError, match=re.escape(message)) as caught:
        load(name)

    assert str(caught.value).startswith(name)


def test_a_missing_array_is_told_with_those_found(tmp_path: Path) -> None:
    content = {"train_images": images(6), "classes": np.arange(3), "train_labels": np.arange(6)}
    name = write_npz(tmp_path, content)

    with pytest.raises(DataError, match="no array test_images, test_labels; the file has train_images, classes"):
        load(name)


def test_a_missing_npz_file_is_told_with_its_full_name() -> None:
    with pytest.raises(DataError, match=re.escape(f"npz:no/own.npz: there is no file {Path('no/own.npz').absolute()}")):
        load("npz:no/own.npz")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY and more", pickle.dumps([1])])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.npz").write_bytes(content)

    with pytest.raises(DataError, match=r"this is not an \.npz file; write one with numpy\.savez"):
        load(f"npz:{tmp_path / 'own.npz'}")


def test_a_damaged_npz_file(tmp_path: Path) -> None:
    name = write_npz(tmp_path, arrays())
    content = bytearray((tmp_path / "own.npz").read_bytes())
    content[200:300] = bytes(100)
    (tmp_path / "own.npz").write_bytes(content)

    with pytest.raises(DataError, match=r"own\.npz: unreadable: .*CRC"):
        load(name)
