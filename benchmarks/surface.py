"""What do staleness and compression cost together? ``python -m benchmarks.surface [--images npz:FILE]``.

Trains K x codec, the same codec in both directions, on images and on texts: in one process, by the very code of the
distributed run. A CSV takes a row for each run as it ends; what stands there is not run again, so a long grid can be
stopped and continued. The tables and the figure show the final accuracy against the unsplit model's.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import accuracy
from benchmarks.accuracy import UNSPLIT, loss, summarise
from benchmarks.accuracy_figure import Point
from benchmarks.surface_figure import Surface, save_figure
from benchmarks.table import machine, print_table
from common.codec import make_codec
from common.command import run_command
from common.config import parse
from common.drawing import check_files


@dataclass(frozen=True)
class Options:
    """Final accuracy for staleness bounds and codecs, on images and on texts."""

    workloads: tuple[Literal["images", "texts"], ...] = ("images", "texts")
    """What to train on."""
    images: str = "digits"
    """Data set of images, as for the client: npz:FILE, cifar10, ..."""
    texts: str = "synthetic"
    """Data set of texts: csv:TRAIN,TEST, imdb, ..."""
    data_path: Path = Path("data")
    """Where data sets that have names are."""
    stale_it: tuple[int, ...] = (0, 1, 2, 3, 5)
    """Staleness bounds."""
    compress: tuple[str, ...] = ("none", "int8", "int4")
    """Codecs, each of both directions."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, the same for each cell; unsplit too."""
    image_model: str = "benchmarks/accuracy_vgg.py:small"
    """Model of images, as for the client."""
    image_cut: str = ""
    """Where it is cut; default behind the first block."""
    image_classes: int = 10
    """Classes of the images."""
    image_epochs: int = 5
    """Epochs on images."""
    image_lr: float = 0.02
    """First learning rate on images, of --optim resnet."""
    text_model: str = "benchmarks/accuracy_bilstm.py:small"
    """Model of texts, as for the client."""
    text_cut: str = "recurrent"
    """Where it is cut."""
    text_classes: int = 2
    """Classes of the texts."""
    text_epochs: int = 3
    """Epochs on texts."""
    text_lr: float = 0.001
    """First learning rate on texts, of --optim imdb."""
    batch_size: int = 32
    """Samples of a step."""
    last_epochs: int = 1
    """A run's accuracy is the mean behind so many last epochs."""
    threads: int = 1
    """Threads of an operation."""
    limit_h: float = 12.0
    """Start no run of a workload after so many hours."""
    out: Path = Path("runs/surface.csv")
    """A row for each run; runs whose row is there are not run again."""
    plot: Path | None = None
    """Draw the figure to this PNG, PDF or SVG file."""
    style: Literal["screen", "paper"] = "paper"
    """Sizes and letters of the figure."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Run what is missing, then print the tables and draw the figure."""
    options = parse(Options)
    if options.plot is not None:
        check_files("plot", [options.plot])
    for codec in options.compress:
        make_codec(codec, "up")
        make_codec(codec, "down")
    print(f"accuracy behind the last of the epochs, seeds {options.seeds}; {machine()}")
    surfaces = []
    for workload in options.workloads:
        grid = grid_of(options, workload)
        runs = accuracy.complete(grid)
        wanted = len(list(accuracy.grid(grid)))
        title = f"{workload}: {_name(grid.model)} on {_name(grid.dataset)}, {grid.epochs} epochs"
        surface = surface_of(title, summarise(runs, options.last_epochs), options)
        print(f"\n{title}, {len(runs)} of {wanted} runs are there; unsplit {_percent(surface.unsplit)}\n")
        print_table(rows_of(surface))
        surfaces.append(surface)
    if options.plot is not None:
        save_figure(options.plot, surfaces, options.style)
    sys.stdout.flush()


def grid_of(options: Options, workload: Literal["images", "texts"]) -> accuracy.Options:
    """The runs of a workload, as the accuracy benchmark takes them."""
    o = options
    if workload == "images":
        kind = (o.images, o.image_model, o.image_cut, o.image_classes, o.image_epochs, "resnet", o.image_lr)
    else:
        kind = (o.texts, o.text_model, o.text_cut, o.text_classes, o.text_epochs, "imdb", o.text_lr)
    dataset, model, cut, num_classes, epochs, optim, lr = kind
    return accuracy.Options(
        compress_up=o.compress,
        compress_down=o.compress,
        pairs=True,
        stale_it=o.stale_it,
        seeds=o.seeds,
        model=model,
        cut=cut,
        num_classes=num_classes,
        dataset=dataset,
        data_path=o.data_path,
        epochs=epochs,
        batch_size=o.batch_size,
        optim=optim,
        lr=lr,
        threads=o.threads,
        limit_h=o.limit_h,
        out=o.out,
    )


def surface_of(title: str, points: Sequence[Point], options: Options) -> Surface:
    """The means over seeds, by K and codec; cells that were not run are left out."""
    cells = {(point.stale_it, point.compress_up): point for point in points if point.compress_up != UNSPLIT}
    unsplit = next((point.accuracy for point in points if point.compress_up == UNSPLIT), None)
    below = {key: loss(point, points) for key, point in cells.items()}
    return Surface(title, options.stale_it, options.compress, cells, below, unsplit)


def rows_of(surface: Surface) -> list[dict[str, object]]:
    """A row for each K: accuracy in per cent, its standard deviation, and points below unsplit, for each codec."""
    rows: list[dict[str, object]] = []
    for bound in surface.stale_it:
        row: dict[str, object] = {"K": bound}
        for codec in surface.codecs:
            point = surface.cells.get((bound, codec))
            if point is None:
                row[codec] = "-"
                continue
            row[codec] = (
                f"{100 * point.accuracy:.2f} +- {100 * point.spread:.2f} ({-surface.below[bound, codec][0]:+.2f})"
            )
        rows.append(row)
    return rows


def _name(text: str) -> str:
    return Path(text.partition(",")[0]).name


def _percent(share: float | None) -> str:
    return "not run" if share is None else f"{100 * share:.2f} %"


if __name__ == "__main__":
    run_command(main)
