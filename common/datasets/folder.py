"""A user's own images in folders, a folder for each class, asked for as ``folder:PATH``.

PATH has the folders of the classes; or ``train`` has them and, in the same way, ``val`` or ``test``. Without these a
fifth of each class is held out. Classes are numbered in the alphabetical order of their folders.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.datasets.classes import require_classes
from common.datasets.holdout import held_out
from common.datasets.image_files import MEAN, STD, decoded, image_files
from common.datasets.images import DataSet, Images, ImageSplit, Labels
from common.errors import DataError

PREFIX = "folder:"
_TEST = ("val", "valid", "test")


class Labelled(NamedTuple):
    """Files with the class of each."""

    paths: list[Path]
    labels: Labels


def load_folder(name: str, num_classes: int, *, input_shape: tuple[int, int, int], progress: bool) -> DataSet:
    """Read all images.

    Args:
        name: of the data set, with its prefix.
        num_classes: that the model tells apart.
        input_shape: channels, height and width that it takes.
        progress: whether to show a bar.

    Raises:
        DataError: there is no such folder, it has no classes, another number of them than the job, a class without
            images, or a file that is no image.
    """
    root = Path(name.removeprefix(PREFIX)).expanduser()
    if not root.is_dir():
        raise DataError(f"{name}: there is no folder {root.absolute()}; name one that has a folder for each class")
    train_root = root / "train" if (root / "train").is_dir() else root
    classes = _folders(train_root)
    if not classes:
        raise DataError(f"{name}: {train_root} has no folders; each class must have one, with its images in it")
    require_classes(
        f"{name} ({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''})", len(classes), num_classes
    )
    test_root = next((root / part for part in _TEST if train_root != root and (root / part).is_dir()), None)
    train = labelled(train_root, classes, name)
    if test_root is None:
        images, in_test = decoded(train.paths, input_shape, name, progress=progress), held_out(train.labels)
        splits = [ImageSplit(images[chosen], train.labels[chosen]) for chosen in (~in_test, in_test)]
    else:
        if unknown := sorted(set(_folders(test_root)) - set(classes)):
            raise DataError(
                f"{name}: {test_root} has the class {unknown[0]}, which {train_root} has not: remove it there, or put "
                "images of it here as well"
            )
        test = labelled(test_root, [each for each in classes if (test_root / each).is_dir()], name, classes)
        splits = [_split(part, decoded(part.paths, input_shape, name, progress=progress)) for part in (train, test)]
    for part, split in zip(("train", "test"), splits, strict=True):
        if not len(split.labels):
            raise DataError(
                f"{name}: there are too few images for a {part} split: put five or more of a class there, or make "
                f"folders train and val with images of their own"
            )
    return image_set(name, num_classes, *splits, augment=False)


def labelled(root: Path, folders: list[str], name: str, classes: list[str] | None = None) -> Labelled:
    """The images of some classes, a folder in ``root`` each.

    Args:
        root: has the folders.
        folders: of the classes.
        name: of the data set, for errors.
        classes: all of them, where ``folders`` are not; a class's number is its place there.

    Raises:
        DataError: a class has no images.
    """
    files = {each: image_files(root / each) for each in folders}
    if empty := [each for each in folders if not files[each]]:
        raise DataError(f"{name}: the folder {root / empty[0]} has no images in it: put some there, or remove it")
    numbers = [(classes or folders).index(each) for each in folders]
    counts = [len(files[each]) for each in folders]
    return Labelled([path for each in folders for path in files[each]], np.repeat(np.array(numbers, np.int64), counts))


def image_set(name: str, num_classes: int, train: ImageSplit, test: ImageSplit, *, augment: bool) -> DataSet:
    """Images of files as a data set, normalised as ImageNet is."""
    channels = train.images.shape[-1]
    mean, std = (MEAN, STD) if channels == 3 else (MEAN[1:2], STD[1:2])
    return DataSet(name, num_classes, train, test, mean, std, augment=augment)


def _split(files: Labelled, images: Images) -> ImageSplit:
    return ImageSplit(images, files.labels)


def _folders(root: Path) -> list[str]:
    return sorted(each.name for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
