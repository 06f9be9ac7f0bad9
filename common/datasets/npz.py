"""A user's own images in one NumPy file, asked for as ``npz:FILE``.

The file (numpy.savez) holds ``train_images`` and ``test_images``, uint8 (N, H, W, C) or (N, H, W), and
``train_labels`` and ``test_labels``, integers (N,). Pickled objects in it are refused.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.datasets.images import DataSet, channel_statistics, checked_split
from common.errors import DataError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def load_npz(path: Path, num_classes: int) -> DataSet:
    """Read and check the file.

    Raises:
        DataError: the file is missing or unreadable, or an array in it is missing or misshapen.
    """
    name = f"npz:{path}"
    arrays = _read(path)
    train = checked_split(arrays["train_images"], arrays["train_labels"], name, "train")
    test = checked_split(arrays["test_images"], arrays["test_labels"], name, "test")
    mean, std = channel_statistics(train.images)
    # Mirrored digits are no digits: only the owner of the images could say that augmenting is harmless.
    return DataSet(name, num_classes, train, test, mean, std, augment=False)


def _read(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"npz:{path}: there is no file {path.absolute()}")
    if not zipfile.is_zipfile(path):
        raise DataError(f"npz:{path}: this is not an .npz file; write one with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise DataError(f"npz:{path}: no array {', '.join(missing)}; the file has {found}")
            return {name: archive[name] for name in ARRAYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"npz:{path}: unreadable: {error}") from error
