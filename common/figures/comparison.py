"""Strategies against each other in several contexts, from a CSV table: a panel for each quantity that was measured."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.drawing import Look, fill, plain
from common.errors import UsageError
from common.figures.files import number, read_rows

_NAN = float("nan")
_WAY_OUT = "it is CSV with context, strategy, and some of step_time_s, time_to_accuracy_s, bytes, energy_mj, ..."


@dataclass(frozen=True)
class Compared:
    """A strategy in a context; NaN where nobody measured."""

    context: str
    strategy: str
    step_time_s: float = _NAN
    time_to_accuracy_s: float = _NAN
    """Until the accuracy of the comparison was reached; NaN where it never was."""
    bytes: float = _NAN
    """Sent in both directions by the whole run."""
    energy_mj: float = _NAN
    """Of the edge, by the whole run."""
    edge_peak_memory_bytes: float = _NAN


_PANELS = {
    "step_time_s": ("step time (ms)", 1e3),
    "time_to_accuracy_s": ("time to accuracy (s)", 1.0),
    "bytes": ("sent, both ways (MB)", 1e-6),
    "energy_mj": ("energy of the edge (J)", 1e-3),
    "edge_peak_memory_bytes": ("peak memory of the edge (MiB)", 2.0**-20),
}


def save_comparison(path: Path, rows: Sequence[Compared]) -> None:
    """Write a table that `read_comparison` reads."""
    names = [each.name for each in fields(Compared)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow(_cell(getattr(row, name)) for name in names)


def read_comparison(path: Path) -> list[Compared]:
    """The rows of a table. Columns of quantities may be missing, as may be their cells.

    Raises:
        UsageError: no such table; it names the line.
    """
    rows = read_rows(path, _WAY_OUT)
    if not rows:
        raise UsageError(f"{path} has no rows; {_WAY_OUT}")
    if missing := [name for name in ("context", "strategy") if name not in rows[0]]:
        raise UsageError(f"{path} has no column {missing[0]}; {_WAY_OUT}")
    found = []
    for line, row in enumerate(rows, start=2):
        values = {name: number(row.get(name), f"{name} in line {line}", path, _WAY_OUT) for name in _PANELS}
        found.append(Compared(row["context"], row["strategy"], **values))
    return found


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.9g}" if math.isfinite(value) else ""


def draw(look: Look, rows: Sequence[Compared]) -> Figure:
    """The figure of a table.

    Raises:
        UsageError: a table without any number.
    """
    names = [name for name in _PANELS if any(np.isfinite(getattr(row, name)) for row in rows)]
    if not names:
        raise UsageError(f"the comparison has no number in any of {', '.join(_PANELS)}; there is nothing to draw")
    contexts = list(dict.fromkeys(row.context for row in rows))
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    across = min(len(names), 2)
    down = -(-len(names) // across)
    figure = look.figure(0.25 + 0.95 * down, wide=across > 1)
    axes = figure.subplots(down, across, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        _draw_panel(axis, rows, name, contexts, strategies)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    handles = [Patch(**fill(place), label=strategy) for place, strategy in enumerate(strategies)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(strategies), 6))
    return figure


def _draw_panel(
    axis: Axes, rows: Sequence[Compared], name: str, contexts: Sequence[str], strategies: Sequence[str]
) -> None:
    title, factor = _PANELS[name]
    width = 0.8 / len(strategies)
    for row in rows:
        place = strategies.index(row.strategy)
        x = contexts.index(row.context) + (place - (len(strategies) - 1) / 2) * width
        value = factor * getattr(row, name)
        if np.isfinite(value):
            axis.bar(x, value, width, **fill(place))
        label = f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if np.isfinite(value) else "n/a"
        axis.annotate(
            label,
            (x, value if np.isfinite(value) else 0),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize="x-small",
            rotation=90 if len(contexts) * len(strategies) > 8 else 0,
        )
    plain(axis)
    axis.set_title(title)
    axis.set_xticks(range(len(contexts)), contexts)
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.5, len(contexts) - 0.5)
    axis.margins(y=0.22)
    axis.yaxis.set_major_formatter("{x:,g}")
