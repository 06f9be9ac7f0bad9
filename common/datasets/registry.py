"""The data sets that can be asked for by name."""

from pathlib import Path

from common.datasets import folder, npz, reviews
from common.datasets.cifar import load_cifar10
from common.datasets.digits import load_digits
from common.datasets.images import DataSet, fitted
from common.datasets.imdb import load_imdb
from common.datasets.mnist import load_mnist
from common.datasets.synthetic import make_synthetic, make_synthetic_texts
from common.datasets.texts import TextSet
from common.datasets.tiny_imagenet import load_tiny_imagenet
from common.errors import UsageError
from common.naming import nearest

NAMES = ("digits", "synthetic", "mnist", "cifar10", "tiny_imagenet")
PREFIXES = (npz.PREFIX, folder.PREFIX)
TEXT_NAMES = ("imdb", "synthetic")
TEXT_PREFIXES = (npz.PREFIX, reviews.PREFIX)


def load_dataset(
    name: str,
    data_path: Path,
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    seed: int,
    progress: bool = True,
) -> DataSet:
    """Load a data set of images, with labels checked and images scaled to what the model takes.

    Args:
        name: one of `NAMES`, or ``npz:`` and a file, or ``folder:`` and a folder.
        data_path: where data sets that have names are or go.
        num_classes: classes that the model tells apart; labels must be below.
        input_shape: channels, height and width that the model takes.
        seed: fixes the synthetic images; the others are what they are.
        progress: whether a download shows a bar; it never does when stderr is not a terminal.

    Raises:
        UsageError: no data set of images has this name.
        DataError: the data set is missing, damaged or does not fit the model.
    """
    C, H, W = input_shape
    shape = (C, H, W)
    if name.startswith(npz.PREFIX):
        dataset = npz.load_npz(_path(name, npz.PREFIX), num_classes)
    elif name.startswith(folder.PREFIX):
        dataset = folder.load_folder(name, num_classes, input_shape=shape, progress=progress)
    else:
        match name.lower():
            case "digits":
                dataset = load_digits(num_classes)
            case "synthetic":
                dataset = make_synthetic(num_classes, shape, seed)
            case "cifar10":
                dataset = load_cifar10(data_path, num_classes, progress=progress)
            case "mnist":
                dataset = load_mnist(data_path, num_classes, progress=progress)
            case "tiny_imagenet":
                dataset = load_tiny_imagenet(data_path, num_classes, input_shape=shape, progress=progress)
            case _:
                raise _unknown(name, "images", NAMES, PREFIXES, TEXT_NAMES, TEXT_PREFIXES)
    return fitted(dataset, shape)


def load_texts(
    name: str, data_path: Path, *, num_classes: int, length: int, vocabulary: int, seed: int, progress: bool = True
) -> TextSet:
    """Load a data set of texts, as numbers of words, of the length that the model takes.

    Args:
        name: one of `TEXT_NAMES`, or ``csv:`` or ``npz:`` and a file.
        data_path: where data sets that have names are or go.
        num_classes: classes that the model tells apart; labels must be below.
        length: words of a text.
        vocabulary: numbers of words are below it.
        seed: fixes the synthetic texts; the others are what they are.
        progress: whether a download shows a bar.

    Raises:
        UsageError: no data set of texts has this name.
        DataError: the data set is missing, damaged or does not fit the model.
    """
    if name.startswith(npz.PREFIX):
        return npz.load_npz_texts(_path(name, npz.PREFIX), num_classes, length=length, vocabulary=vocabulary)
    if name.startswith(reviews.PREFIX):
        return reviews.load_reviews(name, num_classes, length=length, vocabulary=vocabulary)
    match name.lower():
        case "imdb":
            return load_imdb(data_path, num_classes, length=length, vocabulary=vocabulary, progress=progress)
        case "synthetic":
            return make_synthetic_texts(num_classes, length, vocabulary, seed)
    raise _unknown(name, "texts", TEXT_NAMES, TEXT_PREFIXES, NAMES, PREFIXES)


def _path(name: str, prefix: str) -> Path:
    return Path(name.removeprefix(prefix)).expanduser()


def _unknown(
    name: str,
    what: str,
    known: tuple[str, ...],
    prefixes: tuple[str, ...],
    others: tuple[str, ...],
    other_prefixes: tuple[str, ...],
) -> UsageError:
    """The error about a name that no data set of this kind has: perhaps one of the other kind does."""
    places = ", ".join(f"{prefix}{'PATH' if prefix == folder.PREFIX else 'FILE'}" for prefix in prefixes)
    if name.lower() in others or name.startswith(other_prefixes):
        return UsageError(f"--dataset {name} has no {what}, which the model takes; known: {', '.join(known)}, {places}")
    return UsageError(f"no data set is called {name!r}; {nearest(name, known)}, {places}")
