"""CIFAR-10 (Krizhevsky 2009): read from what the user already has, else downloaded.

The published batches are Python pickles. Nothing here unpickles: torchvision's CIFAR10 class does, after it
has found each file's md5 to be the published one, so only the known public bytes are ever interpreted.
"""

import contextlib
import http.client
import io
import os
import socket
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.datasets.classes import require_classes
from common.datasets.images import DataSet, ImageSplit, checked_split
from common.errors import DataError

CLASSES = 10
# Of the training images, as published widely for this data set.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.247, 0.2435, 0.2616)
_DOWNLOAD_TIMEOUT_S = 60.0


def load_cifar10(data_path: Path, num_classes: int, *, progress: bool) -> DataSet:
    """Read CIFAR-10 from its folder or archive in ``data_path``, or download it to there.

    Args:
        data_path: folder that has or will have ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz``, or one
            of these two themselves.
        num_classes: that the model tells apart.
        progress: whether a download shows a bar.

    Raises:
        DataError: the files are damaged, or there are none and the download failed; or another number of classes.
    """
    require_classes("cifar10", CLASSES, num_classes)
    from torchvision.datasets import CIFAR10  # noqa: PLC0415  costs a second, for this data set only

    data_path = data_path.expanduser().absolute()
    root = data_path.parent if data_path.name in (CIFAR10.base_folder, CIFAR10.filename) else data_path
    archive = root / CIFAR10.filename
    if (root / CIFAR10.base_folder).is_dir():
        return _read(CIFAR10, root, num_classes)
    if archive.is_file():
        with _unpacked(CIFAR10, archive) as folder:
            return _read(CIFAR10, folder, num_classes)
    _download(CIFAR10, root, quiet=not (progress and sys.stderr.isatty()))
    return _read(CIFAR10, root, num_classes)


def _read(cifar10: Any, root: Path, num_classes: int) -> DataSet:
    try:
        with warnings.catch_warnings():
            # numpy 2.4.0 to 2.4.4 warns that pickles as old as these say align=0 (numpy/numpy#31177).
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            train, test = (_split(cifar10(root, train=part == "train"), part) for part in ("train", "test"))
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"CIFAR-10 in {root / cifar10.base_folder} is incomplete or damaged ({error}): remove that "
            f"folder and put {cifar10.filename} from {cifar10.url} in its place"
        ) from error
    return DataSet("cifar10", num_classes, train, test, MEAN, STD, augment=True)


def _split(published: Any, part: str) -> ImageSplit:
    return checked_split(published.data, np.asarray(published.targets), "cifar10", part)


@contextlib.contextmanager
def _unpacked(cifar10: Any, archive: Path) -> Iterator[Path]:
    """Unpack the archive, once its md5 is right, into a folder that goes away afterwards."""
    from torchvision.datasets.utils import check_integrity  # noqa: PLC0415  see load_cifar10

    if not check_integrity(archive, cifar10.tgz_md5):
        raise DataError(
            f"{archive} is damaged (its md5 is not {cifar10.tgz_md5}): remove it and get it again from {cifar10.url}"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        except OSError as error:
            raise DataError(f"{archive} could not be unpacked to {folder}: {error}") from error
        yield Path(folder)


def _download(cifar10: Any, root: Path, *, quiet: bool) -> None:
    """Fetch and unpack beside the final place, then rename: a broken download leaves nothing behind."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # torchvision's own requests have none
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=root) as folder,
            contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext(),
        ):
            cifar10(folder, download=True)
            os.replace(Path(folder) / cifar10.base_folder, root / cifar10.base_folder)
    except (OSError, RuntimeError, tarfile.TarError, http.client.HTTPException) as error:
        raise DataError(
            f"CIFAR-10 is not in {root} and could not be downloaded ({error}): put {cifar10.filename} from "
            f"{cifar10.url} into that folder, or use --dataset digits or --dataset npz:FILE"
        ) from error
    finally:
        socket.setdefaulttimeout(previous)
