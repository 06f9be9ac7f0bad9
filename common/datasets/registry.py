"""The data sets that can be asked for by name."""

from pathlib import Path

from common.datasets.cifar import load_cifar10
from common.datasets.digits import load_digits
from common.datasets.images import DataSet, fitted
from common.datasets.npz import load_npz
from common.datasets.synthetic import make_synthetic
from common.errors import UsageError
from common.naming import nearest

NAMES = ("digits", "synthetic", "cifar10")
NPZ_PREFIX = "npz:"


def load_dataset(
    name: str,
    data_path: Path,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    seed: int,
    progress: bool = True,
) -> DataSet:
    """Load a data set, with labels checked and images scaled to what the model takes.

    Args:
        name: ``digits``, ``synthetic``, ``cifar10``, or ``npz:`` and a file.
        data_path: where cifar10 is or goes.
        num_classes: classes that the model tells apart; labels must be below.
        input_shape: channels, height and width that the model takes.
        seed: fixes the synthetic images; the others are what they are.
        progress: whether a download shows a bar; it never does when stderr is not a terminal.

    Raises:
        UsageError: no data set has this name.
        DataError: the data set is missing, damaged or does not fit the model.
    """
    if name.startswith(NPZ_PREFIX):
        dataset = load_npz(Path(name.removeprefix(NPZ_PREFIX)).expanduser(), num_classes)
    else:
        match name.lower():
            case "digits":
                dataset = load_digits(num_classes)
            case "synthetic":
                dataset = make_synthetic(num_classes, input_shape, seed)
            case "cifar10":
                dataset = load_cifar10(data_path, num_classes, progress=progress)
            case _:
                raise UsageError(f"no data set is called {name!r}; {nearest(name, NAMES)}, npz:FILE")
    return fitted(dataset, input_shape)
