"""Does a generator learn with late gradients as unsplit? ``python -m benchmarks.generation [--datasets shapes]``.

Trains the generative workload unsplit (all of the model on the edge) and split at several K, with and without what is
done about gradients being late: in one process, by the very code of the distributed run. A CSV takes a row for each
epoch as its run ends; runs that stand there are not run again.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Literal, NamedTuple

from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from tqdm import tqdm

from baseline import sweep
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.drawing import LOOKS, check_files, line, plain, save
from common.errors import DataError
from discriminative.train import train_in_process
from generative.options import BaseOptions
from generative.recipe import plan_job

AXES = ("dataset", "image_size", "width", "batch_size", "epochs", "compress", "way", "seed")
UNSPLIT = "unsplit"
_PLAIN = ", uncorrected"


@dataclass(frozen=True)
class Options:
    """Held-out loss of a generator, unsplit and at several K."""

    datasets: tuple[str, ...] = ("shapes",)
    """shapes, chairs:PATH, objects:PATH; a column of the figure each."""
    stale_it: tuple[int, ...] = (0, 1, 2, 3)
    """Staleness bounds."""
    uncorrected: tuple[int, ...] = (3,)
    """Staleness bounds to train at with --lookahead 0 --late_rate 0 --late_momentum 0 --patience 2, too."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds, the same for each way."""
    epochs: int = 24
    """Epochs of each run."""
    image_size: int = 32
    """Pixels of a side: 32, 64 or 128."""
    width: float = 0.25
    """Factor of the layers' widths."""
    batch_size: int = 16
    """Samples of a step."""
    compress: str = ""
    """Codec of both directions; default those of the workload."""
    threads: int = 1
    """Threads of an operation."""
    run_dir: Path = Path("runs/generation")
    """Where run folders go."""
    out: Path = Path("runs/generation.csv")
    """A row for each run; runs whose row is there are not run again."""
    plot: Path | None = None
    """Draw the figure to this PNG, PDF or SVG file."""
    style: Literal["screen", "paper"] = "paper"
    """Sizes and letters of the figure."""
    debug: bool = False
    """Show tracebacks."""


class Way(NamedTuple):
    """One way to train."""

    name: str
    flags: Mapping[str, object]


class Curve(NamedTuple):
    """How one way learnt."""

    way: str
    losses: Sequence[Sequence[float]]
    """A row for each seed, a held-out loss for each epoch."""


def main() -> None:
    """Run what is missing, then print the tables and draw the figure."""
    options = parse(Options)
    if options.plot is not None:
        check_files("plot", [options.plot])
    done = sweep.read(options.out, AXES)
    missing = [each for each in _grid(options) if _key(options, *each) not in done]
    for dataset, way, seed in tqdm(missing, unit="run", disable=None):
        row = train(options, dataset, way, seed)
        sweep.append(options.out, row)
        done[_key(options, dataset, way, seed)] = row
    print(f"held-out loss behind {options.epochs} epochs, seeds {options.seeds}; {machine()}")
    curves = {dataset: curves_of(options, dataset, done) for dataset in options.datasets}
    for dataset, of_ways in curves.items():
        print(f"\n{Path(dataset).name}\n")
        print_table(rows_of(of_ways))
    if options.plot is not None:
        save_figure(options.plot, curves, options.style)


def ways(options: Options) -> list[Way]:
    """What is compared."""
    found = [Way(UNSPLIT, {"split_index": 0})]
    found += [Way(f"K = {bound}", {"stale_it": bound}) for bound in options.stale_it]
    plain = {"lookahead": 0.0, "late_rate": 0.0, "late_momentum": 0.0, "patience": 2}
    return found + [Way(f"K = {bound}{_PLAIN}", {"stale_it": bound, **plain}) for bound in options.uncorrected]


def train(options: Options, dataset: str, way: Way, seed: int) -> dict[str, str]:
    """Train once; its row."""
    run = BaseOptions(
        dataset=dataset,
        image_size=options.image_size,
        width=options.width,
        batch_size=options.batch_size,
        epochs=options.epochs,
        compress=options.compress,
        seed=seed,
        threads=options.threads,
        samples=0,
        meter="none",
        checkpoint_every=-1,
        run_dir=options.run_dir,
        **way.flags,  # type: ignore[arg-type]
    )
    run.prepare()
    finished = train_in_process(plan_job(run), run)
    facts = {**finished.summary, "folder": finished.folder}
    row = dict(zip(AXES, _key(options, dataset, way, seed), strict=True))
    return {**row, **{name: str(facts.get(name, "")) for name in sweep.RESULTS}}


def curves_of(options: Options, dataset: str, done: Mapping[tuple[str, ...], Mapping[str, str]]) -> list[Curve]:
    """Held-out losses by epoch of the ways that were run, each a row per seed."""
    curves = []
    for way in ways(options):
        rows = [done.get(_key(options, dataset, way, seed)) for seed in options.seeds]
        if found := [_losses(Path(row["folder"])) for row in rows if row is not None]:
            curves.append(Curve(way.name, found))
    return curves


def rows_of(curves: Sequence[Curve]) -> list[dict[str, object]]:
    """The table: losses behind the last epoch, and the mean part by which they are above those of the first way."""
    rows: list[dict[str, object]] = []
    for curve in curves:
        last = [each[-1] for each in curve.losses]
        row: dict[str, object] = {"": curve.way, "held-out loss": f"{mean(last):.4f}"}
        row["+-"] = f"{stdev(last):.4f}" if len(last) > 1 else ""
        row["against unsplit"] = f"{100 * (mean(last) / mean(each[-1] for each in curves[0].losses) - 1):+.1f} %"
        rows.append({**row, "seeds": len(last)})
    return rows


def save_figure(path: Path, curves: Mapping[str, Sequence[Curve]], style: Literal["screen", "paper"]) -> None:
    """Mean held-out loss over epochs, a panel for each data set."""
    with LOOKS[style].applied() as look:
        figure = look.figure(1.4)
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axis, (dataset, of_ways) in zip(panels, curves.items(), strict=True):
            for i, curve in enumerate(of_ways):
                means = [mean(each) for each in zip(*curve.losses, strict=True)]
                axis.plot(range(1, len(means) + 1), means, label=curve.way, markevery=len(means), **line(i))
            axis.set(xlabel="epoch", ylabel="held-out loss", yscale="log", title=Path(dataset).name)
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
            axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            plain(axis)
        panels[-1].legend()
        save(figure, path, look.dpi)


def _losses(folder: Path) -> list[float]:
    try:
        with (folder / "epochs.csv").open(newline="", encoding="utf-8") as file:
            return [float(row["loss"]) for row in csv.DictReader(file)]
    except OSError:
        raise DataError(f"{folder} is gone, whose epochs are to be shown; name another table with --out") from None


def _grid(options: Options) -> Iterator[tuple[str, Way, int]]:
    """What is to be run, seed by seed, so that a stopped grid is complete for its first seeds."""
    of_seeds = product(options.seeds, options.datasets, ways(options))
    return ((dataset, way, seed) for seed, dataset, way in of_seeds)


def _key(options: Options, dataset: str, way: Way, seed: int) -> tuple[str, ...]:
    o = options
    return tuple(map(str, (dataset, o.image_size, o.width, o.batch_size, o.epochs, o.compress, way.name, seed)))


if __name__ == "__main__":
    run_command(main)
