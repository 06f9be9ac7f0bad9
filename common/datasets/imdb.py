"""IMDB reviews (Maas et al. 2011) as Keras has them: read from what the user already has, else downloaded.

The file has numbers of words by how common they are. As published with the paper, a text is its first words behind the
mark of its beginning, padded behind its end, and rarer words than the model knows are the unknown word.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from common.datasets.classes import require_classes
from common.datasets.download import Digest, download
from common.datasets.images import Labels
from common.datasets.pickled_lists import lists_of_numbers
from common.datasets.texts import (
    FIRST_WORD,
    START,
    UNKNOWN,
    TextSet,
    TextSplit,
    Tokens,
    checked_texts,
    padded,
)
from common.errors import DataError

FILE = "imdb.npz"
URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb.npz"
_DIGEST = Digest("sha256", "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f")
CLASSES = 2


def load_imdb(data_path: Path, num_classes: int, *, length: int, vocabulary: int, progress: bool) -> TextSet:
    """Read the reviews from ``imdb.npz``, or download it.

    Args:
        data_path: the file, or the folder that has or will have it.
        num_classes: that the model tells apart.
        length: words of a text.
        vocabulary: numbers of words are below it.
        progress: whether a download shows a bar.

    Raises:
        DataError: the file is damaged or another one, or it is missing and the download failed.
    """
    require_classes("imdb", CLASSES, num_classes)
    path = data_path.expanduser().absolute()
    if path.suffix != ".npz":
        path /= FILE
    if not path.is_file():
        download(
            URL, path, _DIGEST, f"put {FILE} from {URL} into that folder, or use --dataset csv:FILE", progress=progress
        )
    try:
        with zipfile.ZipFile(path) as archive:
            train, test = (_split(archive, part, path, length, vocabulary) for part in ("train", "test"))
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it and get it again from {URL}") from error
    return checked_texts(TextSet("imdb", num_classes, train, test), vocabulary)


def _split(archive: zipfile.ZipFile, part: str, path: Path, length: int, vocabulary: int) -> TextSplit:
    missing = {f"{axis}_{part}.npy" for axis in "xy"} - set(archive.namelist())
    if missing:
        raise DataError(f"{path} has no {', '.join(sorted(missing))}: it is not Keras's {FILE}, which is at {URL}")
    texts = lists_of_numbers(archive.read(f"x_{part}.npy"), f"{path}, x_{part}")
    labels = _labels(archive, part, path)
    if len(texts) != len(labels):
        raise DataError(f"{path}: {len(texts)} {part} texts but {len(labels)} labels")
    return TextSplit(_tokens(texts, length, vocabulary), labels)


def _labels(archive: zipfile.ZipFile, part: str, path: Path) -> Labels:
    with archive.open(f"y_{part}.npy") as file:
        try:
            labels = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path}, y_{part}: {error}") from error
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}, y_{part} is {labels.dtype} of shape {labels.shape}, but must be integers (N,)")
    return labels.astype(np.int64)


def _tokens(texts: list[list[int]], length: int, vocabulary: int) -> Tokens:
    """In Keras's numbering with the vocabulary's size as its ``num_words``."""
    tokens = padded((text[: length - 1] for text in texts), length - 1)
    ends = np.array([min(len(text), length - 1) for text in texts])
    inside = np.arange(length - 1) < ends[:, np.newaxis]
    words = tokens + FIRST_WORD
    words[(words >= vocabulary) | (words < FIRST_WORD)] = UNKNOWN
    beginnings = np.full((len(texts), 1), START, np.int32)
    return np.concatenate([beginnings, np.where(inside, words, 0).astype(np.int32)], axis=1)
