"""Loss and accuracy of runs, over the time that training took and over the bytes that it sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from common.drawing import Look, line, plain
from common.errors import UsageError
from common.figures.files import Floats
from common.figures.run_folder import RunFolder

Over = Literal["time", "bytes", "steps"]

_NAMES: Mapping[Over, str] = {
    "time": "time since the start, evaluations included (s)",
    "bytes": "sent, both ways (MB)",
    "steps": "steps",
}
_MOST_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """A run's loss and accuracy over one quantity."""

    label: str
    x: Floats
    loss: Floats
    """Training loss, mean over some steps."""
    epochs_x: Floats
    accuracy: Floats
    """Held-out, percent; empty where the run has none."""


def curve(run: RunFolder, over: Over, smooth: int) -> Curve:
    """A run's curve.

    Args:
        run: the run.
        over: what goes along the x axis.
        smooth: how many steps each point of the loss is the mean of.
    """
    steps = run.steps
    sent_mb = np.cumsum(steps["bytes_up"] + steps["bytes_down"]) / 1e6
    x = {"time": steps["wall_s"], "bytes": sent_mb, "steps": steps["step"] + 1}[over]
    width = min(smooth, len(x))
    loss = np.convolve(steps["loss"], np.ones(width) / width, "valid")
    thin = -(-len(loss) // _MOST_POINTS)
    epochs_x, accuracy = _accuracy(run, x)
    return Curve(run.label, x[width - 1 :][::thin], loss[::thin], epochs_x, accuracy)


def _accuracy(run: RunFolder, x: Floats) -> tuple[Floats, Floats]:
    """Where each epoch's evaluation lies along the axis, and its accuracy."""
    nothing = np.empty(0)
    if not run.has("epochs.csv"):
        return nothing, nothing
    epochs = run.epochs
    if not epochs or not np.isfinite(epochs["accuracy"]).any():
        return nothing, nothing
    if x is run.steps["wall_s"]:
        return epochs["wall_s"], 100 * epochs["accuracy"]
    # An evaluation stands where the last training step before it does.
    last = np.searchsorted(run.steps["wall_s"], epochs["wall_s"], side="right") - 1
    return x[np.clip(last, 0, None)], 100 * epochs["accuracy"]


def draw(look: Look, runs: Sequence[RunFolder], over: Sequence[Over] = ("time", "bytes"), smooth: int = 10) -> Figure:
    """The figure of some runs: a column for each of ``over``, a row for loss and one for accuracy where there is one.

    Raises:
        UsageError: nothing to draw over, or a mean of no steps.
    """
    if not over or smooth < 1:
        raise UsageError(f"--over names {len(over)} axes and --smooth is {smooth}; both must be 1 or more")
    table = [[curve(run, each, smooth) for run in runs] for each in over]
    figure = look.figure(rows(table[0]), wide=len(over) > 1)
    place(figure, over, table, smooth)
    return figure


def rows(curves: Sequence[Curve]) -> float:
    """Height of a figure of these, as `Look.figure` counts."""
    return 0.3 + 1.05 * _rows(curves)


def _rows(curves: Sequence[Curve]) -> int:
    return 2 if any(len(each.accuracy) for each in curves) else 1


def place(figure: FigureBase, over: Sequence[Over], table: Sequence[Sequence[Curve]], smooth: int) -> None:
    """Draw into a figure, or a part of one.

    Args:
        figure: where.
        over: what goes along the x axes, a column for each.
        table: the runs' curves, for each of ``over``.
        smooth: how many steps each point of the loss is the mean of.
    """
    rows = _rows(table[0])
    axes = figure.subplots(rows, len(over), sharey="row", sharex="col", squeeze=False)
    silent = False
    for column, (name, curves) in enumerate(zip(over, table, strict=True)):
        for place, each in enumerate(curves):
            if name == "bytes" and each.x[-1] == 0:
                silent = True  # all on the edge
                continue
            _draw_loss(axes[0][column], place, each)
            if rows == 2:
                _draw_accuracy(axes[1][column], place, each)
        axes[-1][column].set_xlabel(_NAMES[name])
    for axis in axes.flat:
        plain(axis, "both")
    axes[0][0].set_ylabel(f"training loss\n(mean of {smooth} steps)")
    axes[0][0].set_ylim(0, None)
    if rows == 2:
        axes[1][0].set_ylabel("held-out accuracy (%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    if silent:
        axes[0][list(over).index("bytes")].set_title("runs that send nothing are left out", fontsize="small")
    ncols = min(len(table[0]), 4 if len(over) > 1 else 2)
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols)


def _draw_loss(axis: Axes, place: int, each: Curve) -> None:
    every = max(1, len(each.x) // 8)
    axis.plot(each.x, each.loss, **line(place), markevery=(place % every, every), label=each.label)


def _draw_accuracy(axis: Axes, place: int, each: Curve) -> None:
    axis.plot(each.epochs_x, each.accuracy, **line(place))
