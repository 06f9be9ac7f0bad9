"""The demo's figure: what the stages of some steps do at the same time, and loss and accuracy, of each run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.drawing import LOOKS, save
from common.figures import curves, timeline
from common.figures.run_folder import RunFolder

_SMOOTH = 10


def draw(path: Path, runs: Mapping[str, Path], link: str) -> None:
    """Save the figure of ``runs`` (title -> run folder) to ``path``."""
    folders = [RunFolder(folder, title) for title, folder in runs.items()]
    lines = [curves.curve(folder, "time", _SMOOTH) for folder in folders]
    with LOOKS["screen"].applied() as look:
        heights = timeline.rows(len(folders)), curves.rows(lines)
        figure = look.figure(sum(heights))
        parts: Any = figure.subfigures(2, 1, height_ratios=heights)
        timeline.place(parts[0], folders)
        curves.place(parts[1], ["time"], [lines], _SMOOTH)
        figure.suptitle(f"Split training over an emulated link: {link}", x=0.01, ha="left", fontsize="large")
        save(figure, path, look.dpi)
