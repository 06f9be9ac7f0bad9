"""The figure of the modes benchmark: accuracy, step time and bytes of each mode, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.drawing import LOOKS, fill, plain, save


@dataclass(frozen=True)
class Mode:
    """Means over the seeds of one mode."""

    name: str
    accuracy: float
    """A share of 1."""
    spread: float
    """Standard deviation of the accuracy over the seeds; 0 of one."""
    step_time_s: float
    bytes_up: float
    """Per step."""
    bytes_down: float
    seeds: int


def save_figure(path: Path, modes: Sequence[Mode], title: str, style: Literal["screen", "paper"]) -> None:
    """Save the figure; the suffix of ``path`` says in which format."""
    with LOOKS[style].applied() as look:
        figure = look.figure(0.6 + 0.15 * len(modes))
        accuracy, time, nbytes = figure.subplots(1, 3, sharey=True)
        places = range(len(modes))
        accuracy.errorbar(
            [100 * mode.accuracy for mode in modes],
            places,
            xerr=[100 * mode.spread for mode in modes],
            fmt="o",
            color="black",
            capsize=2,
        )
        time.barh(places, [1e3 * mode.step_time_s for mode in modes], **fill(0))
        nbytes.barh(
            [place - 0.2 for place in places], [mode.bytes_up / 1e3 for mode in modes], 0.4, label="up", **fill(0)
        )
        nbytes.barh(
            [place + 0.2 for place in places], [mode.bytes_down / 1e3 for mode in modes], 0.4, label="down", **fill(1)
        )
        accuracy.set_yticks(list(places), [mode.name for mode in modes])
        accuracy.invert_yaxis()
        labels = ("final accuracy, %", "step time, ms", "KB a step")
        for axis, label in zip((accuracy, time, nbytes), labels, strict=True):
            axis.set_xlabel(label)
            plain(axis, "x")
        nbytes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize="small")
        save(figure, path, look.dpi)
