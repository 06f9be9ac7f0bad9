"""Tiny ImageNet (200 classes of 64x64 images), in the folders of the public archive; or the first of its classes.

Classes are numbered in the alphabetical order of their WordNet names. The paper takes the first 20.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.datasets.folder import Labelled, image_set, labelled
from common.datasets.image_files import decoded
from common.datasets.images import DataSet, ImageSplit
from common.datasets.jitter import cropped_and_jittered
from common.errors import DataError

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_ANNOTATIONS = "val_annotations.txt"


def load_tiny_imagenet(
    data_path: Path, num_classes: int, *, input_shape: tuple[int, int, int], progress: bool
) -> DataSet:
    """Read the images of the first ``num_classes`` classes.

    Args:
        data_path: the archive's folder, or the folder that it is in.
        num_classes: how many.
        input_shape: channels, height and width that the model takes.
        progress: whether to show a bar.

    Raises:
        DataError: the folder is missing or not of this layout, has fewer classes, or a file is no image.
    """
    root = data_path.expanduser()
    root = root / FOLDER if (root / FOLDER).is_dir() else root
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise DataError(
            f"there is no {FOLDER} with train and val in {data_path.absolute()}: get {URL}, and unzip it there "
            "(or name its folder with --data_path)"
        )
    classes = sorted(each.name for each in (root / "train").iterdir() if each.is_dir())
    if not 1 <= num_classes <= len(classes):
        raise DataError(
            f"{root} has {len(classes)} classes but --num_classes is {num_classes}: pass --num_classes {len(classes)}, "
            "or fewer for the first of them"
        )
    chosen = classes[:num_classes]
    files = (labelled(root / "train", chosen, "tiny_imagenet"), _annotated(root / "val", chosen))
    train, test = (
        ImageSplit(decoded(part.paths, input_shape, "tiny_imagenet", progress=progress), part.labels) for part in files
    )
    return replace(image_set("tiny_imagenet", num_classes, train, test, augment=True), change=cropped_and_jittered)


def _annotated(folder: Path, classes: list[str]) -> Labelled:
    """The images of ``val``, whose classes are in a table: a line is a file's name, its class, and a box."""
    table = folder / _ANNOTATIONS
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read ({error}): get it again from {URL}") from error
    rows = [line.split("\t") for line in lines if line.strip()]
    if short := next((i for i, row in enumerate(rows, 1) if len(row) < 2), None):
        raise DataError(f"{table}: line {short} has no tab between a file's name and its class")
    numbers = {name: number for number, name in enumerate(classes)}
    found = sorted((folder / "images" / name, numbers[label]) for name, label, *_ in rows if label in numbers)
    if not found:
        raise DataError(f"{table} names no image of the classes {', '.join(classes[:3])}, ...")
    return Labelled([path for path, _ in found], np.array([label for _, label in found], np.int64))
