"""A user's own images or texts in one NumPy file, asked for as ``npz:FILE``.

The file (numpy.savez) holds ``train_images`` and ``test_images``, uint8 (N, H, W, C) or (N, H, W), or else
``train_tokens`` and ``test_tokens``, numbers of words (N, T); and ``train_labels`` and ``test_labels``, integers (N,).
Pickled objects in it are refused.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.datasets.images import DataSet, channel_statistics, checked_split
from common.datasets.texts import TextSet, TextSplit, checked_texts, padded
from common.errors import DataError

PREFIX = "npz:"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_LARGEST = (1 << 31) - 1  # of numbers of words, which are kept as int32
TEXT_ARRAYS = ("train_tokens", "train_labels", "test_tokens", "test_labels")


def load_npz(path: Path, num_classes: int) -> DataSet:
    """Read and check a file of images.

    Raises:
        DataError: the file is missing or unreadable, or an array in it is missing or misshapen.
    """
    name = f"npz:{path}"
    arrays = _read(path, ARRAYS)
    train = checked_split(arrays["train_images"], arrays["train_labels"], name, "train")
    test = checked_split(arrays["test_images"], arrays["test_labels"], name, "test")
    mean, std = channel_statistics(train.images)
    # Mirrored digits are no digits: only the owner of the images could say that augmenting is harmless.
    return DataSet(name, num_classes, train, test, mean, std, augment=False)


def load_npz_texts(path: Path, num_classes: int, *, length: int, vocabulary: int) -> TextSet:
    """Read and check a file of texts; longer ones than the model takes lose their end, shorter ones get padding.

    Raises:
        DataError: the file is missing or unreadable, or an array in it is missing, misshapen or of too large numbers.
    """
    name = f"npz:{path}"
    arrays = _read(path, TEXT_ARRAYS)
    splits = (
        _text_split(arrays[f"{part}_tokens"], arrays[f"{part}_labels"], name, part, length)
        for part in ("train", "test")
    )
    return checked_texts(TextSet(name, num_classes, *splits), vocabulary)


def _text_split(
    tokens: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], name: str, part: str, length: int
) -> TextSplit:
    for what, array, dimensions in (("tokens", tokens, 2), ("labels", labels, 1)):
        if not np.issubdtype(array.dtype, np.integer) or array.ndim != dimensions:
            form = "(N, T)" if dimensions == 2 else "(N,)"
            raise DataError(f"{name}: {part} {what} are {array.dtype} {array.shape}, but must be integers {form}")
    if len(tokens) != len(labels):
        raise DataError(f"{name}: {len(tokens)} {part} texts but {len(labels)} {part} labels")
    return TextSplit(padded(tokens.clip(-1, _LARGEST), length), labels.astype(np.int64))


def _read(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(
            f"npz:{path}: there is no file {path.absolute()}; name one that is there, as --dataset npz:FILE"
        )
    if not zipfile.is_zipfile(path):
        raise DataError(f"npz:{path}: this is not an .npz file; write one with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise DataError(
                    f"npz:{path}: no array {', '.join(missing)}; the file has {found}: write it with numpy.savez under "
                    "the names of data/README.md"
                )
            return {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"npz:{path}: unreadable: {error}") from error
