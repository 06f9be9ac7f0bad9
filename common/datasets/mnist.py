"""MNIST (LeCun et al. 1998) from its published IDX files, plain or gzipped; downloaded where there are none."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.datasets.classes import require_classes
from common.datasets.download import Digest, download
from common.datasets.images import DataSet, ImageSplit, checked_split
from common.errors import DataError

CLASSES = 10
MEAN = (0.13066,)
STD = (0.30811,)
_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# md5 of the gzipped files, as torchvision publishes them.
FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_UNSIGNED_BYTES = 8  # code of the dtype in a file's head


def load_mnist(data_path: Path, num_classes: int, *, progress: bool) -> DataSet:
    """Read the four files.

    Args:
        data_path: folder that has them, or has or will have them in ``MNIST/raw``, as torchvision puts them.
        num_classes: that the model tells apart.
        progress: whether a download shows a bar.

    Raises:
        DataError: a file is damaged, or it is missing and the download failed.
    """
    require_classes("mnist", CLASSES, num_classes)
    folder = data_path.expanduser().absolute()
    folder = next((each for each in (folder, folder / "MNIST" / "raw") if _has_all(each)), folder / "MNIST" / "raw")
    arrays = [read_idx(_found(folder, name, progress=progress)) for name in FILES]
    train, test = (_split(arrays[i], arrays[i + 1], part) for i, part in ((0, "train"), (2, "test")))
    return DataSet("mnist", num_classes, train, test, MEAN, STD, augment=False)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array of bytes from an IDX file: two zeros, code of the dtype, dimensions, their sizes, and the elements.

    Raises:
        DataError: it is no such file, or not all of one.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it and get it again from {_URL}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTES]):
        raise DataError(f"{path} is no IDX file of bytes: remove it and get it again from {_URL}")
    dimensions = content[3]
    begin = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, begin, 4)]
    if len(content) - begin != math.prod(shape):
        raise DataError(
            f"{path} announces {'x'.join(map(str, shape))} bytes and has {max(0, len(content) - begin)}: remove it and "
            f"get it again from {_URL}"
        )
    # A copy, because the file's own bytes could not be written to.
    array: npt.NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=begin).reshape(shape).copy()
    return array


def _split(images: npt.NDArray[Any], labels: npt.NDArray[Any], part: str) -> ImageSplit:
    return checked_split(images, labels, "mnist", part)


def _has_all(folder: Path) -> bool:
    return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in FILES)


def _found(folder: Path, name: str, *, progress: bool) -> Path:
    """The plain file or the gzipped one, which is downloaded where there is neither."""
    if (folder / name).is_file():
        return folder / name
    path = folder / f"{name}.gz"
    if not path.is_file():
        way_out = f"put the four files from {_URL} into {folder}, or use --dataset digits"
        download(f"{_URL}{path.name}", path, Digest("md5", FILES[name]), way_out, progress=progress)
    return path
