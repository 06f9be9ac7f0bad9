"""How weights are distributed, from a run's ``weights.npz``: a panel for each slice, a line for each epoch."""

import zipfile
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.drawing import Look, plain
from common.errors import UsageError

Arrays = dict[str, NDArray[np.float64]]
FILE = "weights.npz"
_COLUMNS = 4


def read_weights(folder: Path) -> dict[int, Arrays]:
    """Counts, edges and moments by slice; a row for each epoch.

    Raises:
        UsageError: the run has none.
    """
    path = folder / FILE
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {error}; only runs with --track_weights 1 write it") from None
    slices = sorted({int(name.split("/")[0]) for name in arrays})
    if not slices:
        raise UsageError(f"{path} has no slices")
    return {i: {name: arrays[f"{i}/{name}"] for name in ("counts", "edges", "moments")} for i in slices}


def draw(look: Look, slices: dict[int, Arrays]) -> Figure:
    """Densities, the first epoch in the lightest shade."""
    rows = -(-len(slices) // _COLUMNS)
    figure = look.figure(rows)
    axes = figure.subplots(rows, min(len(slices), _COLUMNS), squeeze=False).flat
    shades = colormaps["cividis"]
    for axis, (number, arrays) in zip(axes, slices.items(), strict=False):
        epochs = arrays["moments"][:, 0]
        for row, (counts, edges) in enumerate(zip(arrays["counts"], arrays["edges"], strict=True)):
            widths = np.diff(edges)
            density = counts / max(counts.sum(), 1.0) / np.where(widths > 0, widths, 1.0)
            shade = shades(1.0 - (row + 1) / len(epochs))
            label = f"epoch {epochs[row] + 1:.0f}" if row in (0, len(epochs) - 1) else None
            axis.plot((edges[1:] + edges[:-1]) / 2, density, color=shade, linewidth=1.0, label=label)
        axis.set_title(f"slice {number}")
        axis.set_xlabel("weight")
        axis.set_ylabel("density")
        plain(axis)
    for axis in list(axes)[len(slices) :]:
        axis.remove()
    figure.axes[0].legend()
    return figure
