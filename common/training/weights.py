"""How the weights of a model's slices are distributed, epoch by epoch (the paper's ``--track_weights``)."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from common.errors import UsageError
from common.partition.graph import Graph
from common.partition.steps import state_of

FILE = "weights.npz"
BINS = 100
KINDS = ("counts", "edges", "moments")


def slice_parameters(graph: Graph, splits: int, points: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Names of the parameters of some slices; without ``points`` of all that have any.

    Args:
        graph: of the model.
        splits: number of slices; 0 makes each block one.
        points: which slices, from 0.

    Raises:
        UsageError: there is no such slice, or it has no parameters.
    """
    ends = graph.slices(splits or graph.blocks)
    count = len(ends) - 1
    for each in points:
        if not 0 <= each < count:
            raise UsageError(f"--track_point has {each}; the model is in {count} slices here, counted from 0")
    parameters = {name for name, value in state_of(graph.model).items() if isinstance(value, nn.Parameter)}
    parts = graph.chain(ends[1:-1]) if count > 1 else [graph.model]
    named = {i: tuple(name for name in state_of(part) if name in parameters) for i, part in enumerate(parts)}
    if bare := [each for each in points if not named[each]]:
        raise UsageError(f"--track_point has {bare[0]}; that slice has no weights")
    return {i: names for i, names in named.items() if names and (not points or i in points)}


class WeightsLog:
    """Takes a histogram of each slice behind each epoch, for TensorBoard and a file.

    Args:
        folder: of the run; of one that goes on, with the epochs so far.
        slices: names of parameters by slice.
        parts: the parts of the model that are on this machine, at the moment.
    """

    def __init__(
        self, folder: Path, slices: Mapping[int, Sequence[str]], parts: Callable[[], Sequence[nn.Module]]
    ) -> None:
        self._folder, self._slices, self._parts = folder, slices, parts
        self._taken = _taken(folder / FILE)

    def epoch(self, number: int, board: SummaryWriter) -> None:
        """Take the histograms of the slices that are here, and write all so far.

        What is there of this epoch and of those behind it is of a run that went back to a checkpoint, and is dropped.
        """
        self._drop(number)
        here: dict[str, Tensor] = {}
        for part in self._parts():
            here |= dict(part.named_parameters())
        for i, names in self._slices.items():
            if not all(name in here for name in names):
                continue  # it is at the other side
            values = torch.cat([here[name].detach().flatten().cpu() for name in names]).double()
            board.add_histogram(f"weights/slice {i}", values, number)
            finite = values[values.isfinite()].numpy()
            counts, edges = np.histogram(finite, BINS)
            moments = np.array([number, len(values), finite.mean(), finite.std()] if len(finite) else [number, 0, 0, 0])
            for name, row in zip(KINDS, (counts, edges, moments), strict=True):
                self._taken.setdefault(f"{i}/{name}", []).append(row.astype(np.float64))
        arrays = {name: np.stack(rows) for name, rows in self._taken.items() if rows}
        draft = self._folder / f".{FILE}"
        np.savez(draft, **arrays)  # type: ignore[arg-type]
        draft.replace(self._folder / FILE)  # whoever dies meanwhile leaves the old one whole

    def _drop(self, number: int) -> None:
        """Leave the epochs before a number."""
        for name in [each for each in self._taken if each.endswith("/moments")]:
            kept = sum(row[0] < number for row in self._taken[name])
            for kind in KINDS:
                del self._taken[name.replace("moments", kind)][kept:]


def _taken(path: Path) -> dict[str, list[NDArray[np.float64]]]:
    """Rows by name, of a file that may not be there yet.

    Raises:
        UsageError: it is damaged.
    """
    if not path.exists():
        return {}
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: list(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {error}; move it away, and its epochs are left out") from None
