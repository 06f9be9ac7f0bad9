"""Images in files, decoded once before training: what cannot be read is found then, and not in the third hour."""

import os
import struct
import sys
import warnings
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps
from tqdm import tqdm

from common.datasets.images import Images
from common.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
# Of ImageNet, as published widely: right for what a model pretrained on it has seen, and near enough for other photos.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_MEMORY_SHARE = 0.5  # of the machine's, that images may take
_THREADS = 8  # decoding leaves Python's lock to others
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Warning, Image.DecompressionBombError)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and those in it, in the order of their names; hidden ones are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def decoded(paths: Sequence[Path], input_shape: tuple[int, int, int], source: str, *, progress: bool) -> Images:
    """The images as one array (N, H, W, C), cropped to the model's format and scaled to its size.

    Args:
        paths: of the files.
        input_shape: channels, height and width.
        source: what to call the data set in an error.
        progress: whether to show a bar; there is none where stderr is no terminal.

    Raises:
        DataError: a file is no image, or all of them would take too much memory.
    """
    C, H, W = input_shape
    if C not in (1, 3):
        raise DataError(f"{source}: images have 1 or 3 channels but the model takes {C}")
    _check_memory(len(paths) * C * H * W, len(paths), source)
    images = np.empty((len(paths), H, W, C), np.uint8)
    quiet = not (progress and sys.stderr.isatty())
    with warnings.catch_warnings(), ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # of odd metadata in files whose pixels are well
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        work = pool.map(partial(_decode, input_shape), paths)
        for image, pixels in zip(images, tqdm(work, total=len(paths), unit="image", disable=quiet), strict=True):
            image[...] = pixels
    return images


def _decode(input_shape: tuple[int, int, int], path: Path) -> Images:
    C, H, W = input_shape
    mode = "RGB" if C == 3 else "L"
    try:
        with Image.open(path) as file:
            file.draft(mode, (2 * W, 2 * H))  # of a large photo, a JPEG decoder need not make all pixels
            image = ImageOps.exif_transpose(file).convert(mode)
    except (*_BROKEN, ImportError) as error:
        # Where a program has imported ultralytics, Pillow looks for a plugin behind each file that it cannot read.
        cause = (isinstance(error, ImportError) and error.__context__) or error
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise DataError(
            f"{path} is no image that can be read ({reason}): remove it, or put a good copy in its place"
        ) from error
    if image.size != (W, H):
        image = ImageOps.fit(image, (W, H), Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(H, W, C)


def _check_memory(nbytes: int, count: int, source: str) -> None:
    limit = _MEMORY_SHARE * psutil.virtual_memory().total
    if nbytes > limit:
        raise DataError(
            f"{source}: {count} images at the model's size would take {nbytes / 2**30:.1f} GiB of memory; the limit is "
            f"half of this machine's, {limit / 2**30:.1f}: take a part of the images, or a model of smaller ones"
        )
