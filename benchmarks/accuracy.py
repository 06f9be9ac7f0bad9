"""Which codecs reach the unsplit accuracy, and at how many bytes? ``python -m benchmarks.accuracy [--dataset ...]``.

Trains the grid {codec up} x {codec down} x K, several seeds each, in one process by the very code of the distributed
run, and the unsplit model beside it. A CSV takes a row for each run as it ends; what stands there is not run again, so
a long grid can be stopped and continued. The table and the figure show bytes per step against the final accuracy.
"""

import csv
import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tqdm import tqdm

from benchmarks.accuracy_figure import SUFFIXES, Point, save_figure
from benchmarks.table import machine, print_table
from common.codec import make_codec
from common.command import run_command
from common.config import parse
from common.errors import DataError, UsageError
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process

UNSPLIT = "unsplit"
LARGEST_LOSS = 0.5
"""Points of accuracy below unsplit that a default may cost."""


@dataclass(frozen=True)
class Options:
    """Final accuracy and bytes per step for codecs of both directions and staleness bounds."""

    compress_up: tuple[str, ...] = ("none", "fp16", "int8", "int4/c+zstd", "int2/c/s+zstd", "topk:0.1+int8")
    """Codecs of the activations."""
    compress_down: tuple[str, ...] = ("none", "fp16", "int8", "int4/c/s+zstd")
    """Codecs of the gradients."""
    pairs: bool = False
    """Pair the codecs one by one instead of each with each."""
    stale_it: tuple[int, ...] = (3,)
    """Staleness bounds."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, the same for each row; unsplit too."""
    model: str = "resnet20"
    """Model, as for the client."""
    cut: str = ""
    """Where it is cut; default behind the first block."""
    num_classes: int = 10
    """Classes of the data set."""
    dataset: str = "digits"
    """Data set, as for the client: cifar10, npz:FILE, ..."""
    data_path: Path = Path("data")
    """Where data sets are."""
    epochs: int = 5
    """Epochs of each run."""
    batch_size: int = 32
    """Samples of a step."""
    optim: str = "resnet"
    """Optimizer preset."""
    lr: float = 0.0
    """First learning rate; 0 takes the preset's."""
    last_epochs: int = 1
    """A run's accuracy is the mean behind so many last epochs; the CSV has all, so this can be changed afterwards."""
    threads: int = 1
    """Threads of an operation."""
    limit_h: float = 8.0
    """Start no run after so many hours."""
    out: Path = Path("runs/accuracy.csv")
    """A row for each run; runs whose row is there are not run again."""
    plot: Path | None = None
    """Draw the figure to this PNG or PDF file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Run:
    """One training run: what was asked, and what came of it."""

    dataset: str
    model: str
    cut: str
    epochs: int
    batch_size: int
    optim: str
    lr: float
    compress_up: str
    compress_down: str
    stale_it: int
    seed: int
    accuracies: str = ""
    """Held out, behind each epoch; shares of 1 with spaces between."""
    bytes_up: float = 0.0
    """Per step."""
    bytes_down: float = 0.0
    seconds: float = 0.0

    @property
    def asked(self) -> tuple[object, ...]:
        """What tells this run from all others."""
        return dataclasses.astuple(self)[:11]

    def accuracy(self, last_epochs: int) -> float:
        """The mean behind the last epochs."""
        return mean(float(each) for each in self.accuracies.split()[-last_epochs:])


def main() -> None:
    """Run what is missing, then print the table and draw the figure."""
    options = parse(Options)
    if options.plot is not None and options.plot.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot is {options.plot}; its name must end in {' or '.join(SUFFIXES)}")
    for up, down in itertools.zip_longest(options.compress_up, options.compress_down, fillvalue="none"):
        make_codec(up, "up")
        make_codec(down, "down")
    runs = complete(options)
    points = summarise(runs, options.last_epochs)
    title = f"{Path(options.model).name} on {Path(options.dataset).name}, {options.epochs} epochs"
    print(f"{title}, accuracy behind the last {options.last_epochs}, seeds {options.seeds}; {machine()}\n")
    print_table(rows_of(points))
    print(f"\n{verdict(points)}")
    if options.plot is not None:
        save_figure(options.plot, points, title)


def complete(options: Options) -> list[Run]:
    """All runs of the grid, those that are missing in the table trained now.

    Raises:
        DataError: the table is of another program.
    """
    known = {run.asked: run for run in read_runs(options.out)}
    wanted = list(grid(options))
    until = time.monotonic() + 3600 * options.limit_h
    missing = [run for run in wanted if run.asked not in known]
    for run in tqdm(missing, unit="run", disable=None):
        if time.monotonic() > until:
            break
        done = train(run, options)
        append_run(options.out, done)
        known[run.asked] = done
    return [known[run.asked] for run in wanted if run.asked in known]


def grid(options: Options) -> Iterator[Run]:
    """What is to be run, seed by seed, so that a stopped grid is complete for its first seeds."""
    o = options
    fixed = (o.dataset, o.model, o.cut, o.epochs, o.batch_size, o.optim, o.lr)
    if options.pairs:
        codecs = list(zip(options.compress_up, options.compress_down, strict=False))
    else:
        codecs = list(itertools.product(options.compress_up, options.compress_down))
    for seed in options.seeds:
        yield Run(*fixed, UNSPLIT, UNSPLIT, 0, seed)
        for stale_it, (up, down) in itertools.product(options.stale_it, codecs):
            yield Run(*fixed, up, down, stale_it, seed)


def train(run: Run, options: Options) -> Run:
    """The run with its results."""
    unsplit = run.compress_up == UNSPLIT
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        job = BaseOptions(
            model=run.model,
            num_classes=options.num_classes,
            dataset=run.dataset,
            data_path=options.data_path,
            cut=run.cut,
            epochs=run.epochs,
            batch_size=run.batch_size,
            optim=run.optim,
            lr=run.lr,
            stale_it=run.stale_it,
            # Exact codecs at K = 0 are the unsplit model, bit for bit.
            compress_up="none" if unsplit else run.compress_up,
            compress_down="none" if unsplit else run.compress_down,
            seed=run.seed,
            threads=options.threads,
            run_dir=Path(folder),
        )
        job.prepare()
        done = train_in_process(plan_job(job), job)
        with (done.folder / "epochs.csv").open(newline="", encoding="utf-8") as file:
            accuracies = [row["accuracy"] for row in csv.DictReader(file)]
    return dataclasses.replace(
        run,
        accuracies=" ".join(accuracies),
        bytes_up=0.0 if unsplit else done.summary["bytes_up_per_step"],
        bytes_down=0.0 if unsplit else done.summary["bytes_down_per_step"],
        seconds=time.perf_counter() - started,
    )


def summarise(runs: Sequence[Run], last_epochs: int = 1) -> list[Point]:
    """Means over seeds, the unsplit model first, then by bytes from many to few."""
    by_choice: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        by_choice.setdefault((run.compress_up, run.compress_down, run.stale_it), []).append(run)
    points = [
        Point(
            *choice,
            {run.seed: run.accuracy(last_epochs) for run in group},
            mean(run.bytes_up for run in group),
            mean(run.bytes_down for run in group),
        )
        for choice, group in by_choice.items()
    ]
    return sorted(points, key=lambda point: (point.compress_up != UNSPLIT, -point.nbytes))


def rows_of(points: Sequence[Point]) -> list[dict[str, object]]:
    """The table: against unsplit in points of accuracy (and the standard error of that), against floats in bytes."""
    plain = plain_bytes(points)
    rows: list[dict[str, object]] = []
    for point in points:
        below, error = loss(point, points)
        rows.append(
            {
                "up": point.compress_up,
                "down": point.compress_down,
                "K": point.stale_it,
                "accuracy %": 100 * point.accuracy,
                "+-": 100 * point.spread,
                "points below": below,
                "error of that": error,
                "KB up": point.bytes_up / 1e3,
                "KB down": point.bytes_down / 1e3,
                "fewer bytes": plain / point.nbytes if point.nbytes else "",
                "seeds": len(point.by_seed),
            }
        )
    return rows


def loss(point: Point, points: Sequence[Point]) -> tuple[float, float]:
    """Points of accuracy below unsplit, and the standard error of that; nan where that is not known.

    Runs of one seed begin with the same weights and see the same batches: they are compared with each other.
    """
    unsplit = next((each for each in points if each.compress_up == UNSPLIT), point)
    below = [100 * (unsplit.by_seed[seed] - mine) for seed, mine in point.by_seed.items() if seed in unsplit.by_seed]
    if not below or unsplit.compress_up != UNSPLIT:
        return math.nan, math.nan
    return mean(below), stdev(below) / math.sqrt(len(below)) if len(below) > 1 else math.nan


def plain_bytes(points: Sequence[Point]) -> float:
    """Bytes of a step in 32-bit floats both ways; nan where that was not run."""
    found = (point.nbytes for point in points if (point.compress_up, point.compress_down) == ("none", "none"))
    return next(found, float("nan"))


def verdict(points: Sequence[Point]) -> str:
    """The choice of fewest bytes that costs no more than `LARGEST_LOSS` points."""
    if not any(point.compress_up == UNSPLIT for point in points):
        return "the unsplit model was not run: nothing can be said of a loss"
    good = [point for point in points if point.nbytes and loss(point, points)[0] <= LARGEST_LOSS]
    if not good:
        return f"no choice is within {LARGEST_LOSS} points of unsplit"
    best = min(good, key=lambda point: point.nbytes)
    return (
        f"fewest bytes within {LARGEST_LOSS} points of unsplit: {best.compress_up} up, {best.compress_down} down, "
        f"K = {best.stale_it}: {loss(best, points)[0]:.2f} points below, "
        f"{plain_bytes(points) / best.nbytes:.1f}x fewer bytes than plain floats"
    )


def read_runs(path: Path) -> list[Run]:
    """The runs of a table; none where there is no file."""
    if not path.exists():
        return []
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Run)}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(kinds):
            raise DataError(f"{path} is no table of this benchmark; name another with --out")
        return [Run(**{name: kinds[name](value) for name, value in row.items()}) for row in reader]


def append_run(path: Path, run: Run) -> None:
    """Add a row, under a heading where it is the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Run)])
        if new:
            writer.writeheader()
        writer.writerow(dataclasses.asdict(run))


if __name__ == "__main__":
    run_command(main)
