"""The figure of a cut table: what crosses at each point, and how much of the work is before it."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from common.drawing import COLORS, plain, short
from common.partition.cut_table import CutRow

SUFFIXES = (".png", ".pdf")

_COLORS = {"stage": COLORS[0], "module": COLORS[5], "operation": "#bbbbbb"}
_LINE = COLORS[1]
_ENDS = {"stage": "end of a block", "module": "end of a layer", "operation": "within"}
_MOST_NAMES = 55


def save_figure(path: Path, rows: Sequence[CutRow], model: str) -> None:
    """Save the figure of a table; the suffix of ``path`` says in which format."""
    width = min(15.0, max(7.0, 2 + 0.24 * len(rows)))
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(width, 6.5), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    _draw_activations(upper, rows)
    _draw_work(lower, rows)
    for axis in (upper, lower):
        plain(axis)
    named = _named([row.level for row in rows])
    lower.set(xlim=(-0.8, len(rows) - 0.2))
    lower.set_xticks(named, [short(rows[place].name) for place in named], rotation=90, fontsize=8)
    figure.suptitle(f"Where to cut {model}")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_activations(axis: Axes, rows: Sequence[CutRow]) -> None:
    axis.bar(
        range(len(rows)),
        [row.activations_kib for row in rows],
        color=[_COLORS[row.level] for row in rows],
        width=0.8 if len(rows) < 2 * _MOST_NAMES else 1.0,  # thin bars with gaps between them flicker
    )
    axis.set(yscale="log", ylabel="KiB a sample")
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.set_title("activations that cross behind each point", loc="left")
    levels = [level for level in _COLORS if any(row.level == level for row in rows)]
    if len(levels) > 1:
        handles = [Patch(color=_COLORS[level], label=_ENDS[level]) for level in levels]
        axis.legend(handles=handles, ncols=len(levels), loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _draw_work(axis: Axes, rows: Sequence[CutRow]) -> None:
    marker = "o" if len(rows) <= _MOST_NAMES else ""
    axis.plot(range(len(rows)), [row.mflops_before for row in rows], color=_LINE, marker=marker, markersize=4)
    axis.set(ylim=(0, None), ylabel="MFLOPs a sample")
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.set_title("forward work of the head", loc="left")


def _named(levels: Sequence[str]) -> list[int]:
    """Places of the bars that get their names: all, or as many as can be read, ends of blocks first."""
    gap = -(-len(levels) // _MOST_NAMES)
    named: list[int] = []
    for place in sorted(range(len(levels)), key=lambda place: list(_COLORS).index(levels[place])):
        if all(abs(place - other) >= gap for other in named):
            named.append(place)
    return sorted(named)
