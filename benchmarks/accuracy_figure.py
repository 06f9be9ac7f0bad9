"""The figure of the accuracy benchmark: bytes per step against the final accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from common.drawing import COLORS, MARKERS, plain

SUFFIXES = (".png", ".pdf")


@dataclass(frozen=True)
class Point:
    """All seeds of one choice of codecs and staleness bound."""

    compress_up: str
    compress_down: str
    stale_it: int
    by_seed: Mapping[int, float]
    """Accuracies; shares of 1."""
    bytes_up: float
    """Per step; 0 of the unsplit model."""
    bytes_down: float

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return mean(self.by_seed.values())

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 of one."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else 0.0

    @property
    def nbytes(self) -> float:
        """Of both directions, per step."""
        return self.bytes_up + self.bytes_down


def save_figure(path: Path, points: Sequence[Point], title: str) -> None:
    """Save the figure; the suffix of ``path`` says in which format."""
    figure, axis = plt.subplots(figsize=(7.5, 5), layout="constrained")
    coded = [point for point in points if point.nbytes]
    kinds = sorted({point.compress_up for point in coded}, key=[point.compress_up for point in coded].index)
    for i, kind in enumerate(kinds):
        mine = [point for point in coded if point.compress_up == kind]
        axis.errorbar(
            [point.nbytes / 1e3 for point in mine],
            [100 * point.accuracy for point in mine],
            [100 * point.spread for point in mine],
            fmt=MARKERS[i % len(MARKERS)],
            color=COLORS[i % len(COLORS)],
            capsize=3,
            label=f"{kind} up",
        )
    for point in points:
        if not point.nbytes:
            axis.axhline(100 * point.accuracy, color="#555555", linestyle="--", linewidth=1, label="unsplit")
    axis.set(xscale="log", xlabel="KB per step, up and down", ylabel="final accuracy, %", title=title)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    plain(axis, "both")
    axis.legend(fontsize=8)
    _label(axis, coded)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _label(axis: Axes, points: Sequence[Point]) -> None:
    """The codec down of each point, above it to the right; below it where another one is there."""
    bounds = {point.stale_it for point in points}
    drawn: list[Bbox] = []
    axis.get_figure(root=True).canvas.draw()  # type: ignore[union-attr]
    for point in points:
        label = axis.annotate(
            point.compress_down + (f" K={point.stale_it}" if len(bounds) > 1 else ""),
            (point.nbytes / 1e3, 100 * point.accuracy),
            textcoords="offset points",
            xytext=(5, 4),
            fontsize=7,
        )
        if label.get_window_extent().count_overlaps(drawn):
            label.set_position((5, -10))
        drawn.append(label.get_window_extent())
