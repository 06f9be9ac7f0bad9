"""The figure of the surface benchmark: a map for each workload, K against codec, in points below the unsplit model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.accuracy_figure import Point
from common.drawing import LOOKS, save

# From white to blue, through no two colours that the colour-blind take for one; lightness alone says the same.
_MAP = "Blues"
_LEAST_SPAN = 2.0  # points; less would make noise look like something
_DARK = 0.6


@dataclass(frozen=True)
class Surface:
    """Accuracy over staleness bound and codec, for one workload."""

    title: str
    stale_it: Sequence[int]
    codecs: Sequence[str]
    cells: Mapping[tuple[int, str], Point]
    """By K and codec; those that were run."""
    below: Mapping[tuple[int, str], tuple[float, float]]
    """Points of accuracy below unsplit, and the standard error of that; nan where that is not known."""
    unsplit: float | None
    """Accuracy of the unsplit model, a share of 1."""


def save_figure(path: Path, surfaces: Sequence[Surface], style: Literal["screen", "paper"]) -> None:
    """Save the figure; the suffix of ``path`` says in which format."""
    with LOOKS[style].applied() as look:
        figure = look.figure(1.3)
        axes = figure.subplots(1, len(surfaces), squeeze=False)[0]
        for axis, surface in zip(axes, surfaces, strict=True):
            values = np.array(
                [[surface.below.get((k, codec), (np.nan,))[0] for codec in surface.codecs] for k in surface.stale_it]
            )
            most = max(_LEAST_SPAN, np.nanmax(values, initial=0.0))
            image = axis.imshow(np.ma.masked_invalid(values), cmap=_MAP, vmin=0.0, vmax=most, aspect="auto")
            for (row, column), value in np.ndenumerate(values):
                point = surface.cells.get((surface.stale_it[row], surface.codecs[column]))
                text = "" if point is None else f"{100 * point.accuracy:.1f}"
                if point is not None and len(point.by_seed) > 1:
                    text += f"\n±{100 * point.spread:.1f}"
                color = "white" if value > _DARK * most else "black"
                axis.text(column, row, text, ha="center", va="center", color=color, fontsize="small")
            axis.set_xticks(range(len(surface.codecs)), surface.codecs)
            axis.set_yticks(range(len(surface.stale_it)), [str(k) for k in surface.stale_it])
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
            unsplit = "" if surface.unsplit is None else f"\nunsplit {100 * surface.unsplit:.1f} %"
            axis.set(
                xlabel="codec, both directions",
                ylabel="staleness bound K",
                title=surface.title.replace(": ", ":\n", 1) + unsplit,
            )
            axis.title.set_fontsize("small")
            figure.colorbar(image, ax=axis, label="points below unsplit")
        save(figure, path, look.dpi)
