"""How both figures draw: events over time, saving."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.metering.report import Event

_MOST_NAMES = 12


def draw_events(axis: Axes, events: Sequence[Event], span_s: float) -> None:
    """A line for each event; names above the axis where there is room for them."""
    named_s = -1.0
    for event in events:
        axis.axvline(event.time_s, color="#555555", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        if event.time_s - named_s > span_s / _MOST_NAMES or named_s < 0:
            named_s = event.time_s
            axis.annotate(
                event.name if len(event.name) <= 18 else f"{event.name[:17]}…",
                (event.time_s, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(1, 3),
                textcoords="offset points",
                fontsize=8,
                color="#333333",
                rotation=30,
                rotation_mode="anchor",
            )


def save(figure: Figure, path: Path, title: str) -> None:
    """Save with its title; the suffix of ``path`` says in which format."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=150)
    plt.close(figure)
