"""Pipelined or by a local loss? ``python -m benchmarks.modes [--dataset npz:FILE --link 4g]``.

One workload over one emulated link, in processes of their own: by the cloud's gradients with K = 0, with the least K
that keeps the slowest stage busy, and with K = 3; by a local loss (``--gradients local``), alone and with the cloud's
gradient every M steps. Accuracy, bytes and step time are of the same runs. A CSV takes a row for each run as it ends;
what stands there is not run again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from tqdm import tqdm

from baseline import sweep
from benchmarks.modes_figure import Mode, save_figure
from benchmarks.table import machine, print_table
from common.codec import make_codec
from common.command import run_command
from common.config import parse
from common.drawing import check_files
from common.errors import DataError, UsageError
from common.link.contexts import parse_context
from common.planning.cost import smallest_sufficient_staleness
from discriminative.testbed import Testbed

AXES = (
    *("link", "dataset", "model", "split_index", "epochs", "batch_size", "optim", "lr", "compress"),
    *("gradients", "stale_it", "align", "seed"),
)
_LEAST = "least"


@dataclass(frozen=True)
class Options:
    """Accuracy, bytes and step time of training by the cloud's gradients and by a local loss, over one link."""

    link: str = "4g"
    """iot, 4g, 4g+, wifi, 5g, wired, or UP/DOWN/RTT[/JITTER] in Mbit/s and ms."""
    dataset: str = "digits"
    """Data set, as for the client: npz:FILE, cifar10, ..."""
    model: str = "resnet20"
    """Model, as for the client."""
    num_classes: int = 10
    """Classes of the data set."""
    split_index: int = 4
    """Slices of the model on the edge."""
    epochs: int = 5
    """Epochs of each run."""
    batch_size: int = 32
    """Samples of a step."""
    optim: str = "resnet"
    """Optimizer preset."""
    lr: float = 0.05
    """First learning rate."""
    compress: str = "int4+zstd"
    """Codec of both directions."""
    stale_it: tuple[str, ...] = ("0", _LEAST, "3")
    """Staleness bounds of training by the cloud's gradients; least: what the stages of the K = 0 run ask for."""
    align_every: tuple[int, ...] = (0, 20, 5)
    """Of training by a local loss: the cloud's gradient every so many steps; 0 for never."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, the same for each mode."""
    limit_h: float = 12.0
    """Start no run after so many hours."""
    out: Path = Path("runs/modes.csv")
    """A row for each run; runs whose row is there are not run again. Their folders stand beside it."""
    plot: Path | None = None
    """Draw the figure to this PNG, PDF or SVG file."""
    style: Literal["screen", "paper"] = "paper"
    """Sizes and letters of the figure."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Run what is missing, then print the table and draw the figure."""
    options = parse(Options)
    _check(options)
    done = sweep.read(options.out, AXES)
    missing = [each for each in grid(options) if _key(each, options, done) not in done]
    if missing:
        with Testbed(options.link, options.out.parent / "modes", quiet=True) as testbed:
            for each in tqdm(sweep.in_time(missing, options.limit_h), total=len(missing), unit="run", disable=None):
                values = resolved(each, options, done)
                if tuple(values.values()) in done:
                    continue  # the least K is one of the others
                row = train(testbed, values, options)
                sweep.append(options.out, row)
                done[tuple(values.values())] = row
    modes = modes_of(options, done)
    title = (
        f"{options.model} on {Path(options.dataset).name}, {parse_context(options.link)}, {options.compress} both ways"
    )
    print(f"{title}, {options.epochs} epochs, seeds {options.seeds}; {machine()}\n")
    print_table(rows_of(modes))
    if options.plot is not None:
        save_figure(options.plot, modes, title, options.style)


def _check(options: Options) -> None:
    """Refuse, before any work, what could not be run or written.

    Raises:
        UsageError: with the flag.
    """
    if options.plot is not None:
        check_files("plot", [options.plot])
    for direction in ("up", "down"):
        make_codec(options.compress, direction)
    for bound in options.stale_it:
        if bound != _LEAST and not bound.isdigit():
            raise UsageError(f"--stale_it has {bound}; it takes whole numbers and the word {_LEAST}")
    if _LEAST in options.stale_it and options.stale_it[0] != "0":
        raise UsageError(f"--stale_it {_LEAST} is known from the stages of K = 0; let 0 be the first of them")
    parse_context(options.link)


def grid(options: Options) -> Iterator[dict[str, str]]:
    """What is to be run, seed by seed, so that a stopped grid is complete for its first seeds."""
    o = options
    fixed = (o.link, o.dataset, o.model, o.split_index, o.epochs, o.batch_size, o.optim, o.lr, o.compress)
    for seed in options.seeds:
        modes = [("cloud", bound, 0) for bound in o.stale_it]
        modes += [("local", "3", every) for every in o.align_every]  # late are only the gradients that align
        for gradients, bound, every in modes:
            values = (*fixed, gradients, bound, every, seed)
            yield dict(zip(AXES, map(str, values), strict=True))


def resolved(
    values: Mapping[str, str], options: Options, done: Mapping[tuple[str, ...], Mapping[str, str]]
) -> dict[str, str]:
    """The same with the least K as a number.

    Raises:
        DataError: the K = 0 run, whose stages say it, is in the table but its folder is gone.
    """
    if values["stale_it"] != _LEAST:
        return dict(values)
    serial = {**values, "stale_it": "0", "seed": str(options.seeds[0])}
    folder = Path(done[tuple(serial.values())]["folder"])
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        raise DataError(f"{folder} is gone, whose stages say the least K; name another table with --out") from None
    stages: dict[str, float] = dict(summary["stages_s"])
    stages["edge"] *= 4 / 3  # ahead of the gradients the edge replays its forward pass
    least = smallest_sufficient_staleness(list(stages.values()), parse_context(options.link).rtt_ms / 1e3)
    return {**values, "stale_it": str(least)}


def train(testbed: Testbed, values: Mapping[str, str], options: Options) -> dict[str, str]:
    """Train one over the link; its row."""
    flags = [
        *("--model", options.model, "--num_classes", str(options.num_classes), "--dataset", options.dataset),
        *("--split_index", str(options.split_index), "--batch_size", str(options.batch_size)),
        *("--optim", options.optim, "--lr", str(options.lr), "--epochs", str(options.epochs), "--meter", "none"),
        *("--compress", options.compress, "--gradients", values["gradients"], "--stale_it", values["stale_it"]),
        *("--align_every", values["align"], "--seed", values["seed"], "--checkpoint_every", "-1"),
    ]
    summary, folder = testbed.train(flags)
    facts: dict[str, Any] = {**summary, "folder": folder}
    return {**values, **{name: str(facts.get(name, "")) for name in sweep.RESULTS}}


def modes_of(options: Options, done: Mapping[tuple[str, ...], Mapping[str, str]]) -> list[Mode]:
    """Means over seeds, in the order of the flags."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for each in grid(options):
        row = done.get(_key(each, options, done))
        if row is not None:
            rows = found.setdefault(_name(row, least=each["stale_it"] == _LEAST), [])
            rows.append(row)
    modes = []
    for name, rows in found.items():
        accuracies = [float(row["accuracy"]) for row in rows]
        spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
        step_time_s, up, down = (
            mean(float(row[key]) for row in rows) for key in ("step_time_s", "bytes_up_per_step", "bytes_down_per_step")
        )
        modes.append(Mode(name, mean(accuracies), spread, step_time_s, up, down, len(rows)))
    return modes


def rows_of(modes: Sequence[Mode]) -> list[dict[str, object]]:
    """The table."""
    return [
        {
            "mode": mode.name,
            "accuracy %": 100 * mode.accuracy,
            "+-": 100 * mode.spread,
            "ms/step": 1e3 * mode.step_time_s,
            "KB up/step": mode.bytes_up / 1e3,
            "KB down/step": mode.bytes_down / 1e3,
            "seeds": mode.seeds,
        }
        for mode in modes
    ]


def _key(
    values: Mapping[str, str], options: Options, done: Mapping[tuple[str, ...], Mapping[str, str]]
) -> tuple[str, ...]:
    """Of the row of a run; none has that of a least K that is not known yet."""
    serial = {**values, "stale_it": "0", "seed": str(options.seeds[0])}
    if values["stale_it"] == _LEAST and tuple(serial.values()) not in done:
        return ()
    return tuple(resolved(values, options, done).values())


def _name(row: Mapping[str, str], *, least: bool) -> str:
    if row["gradients"] == "cloud":
        return f"cloud, K = {row['stale_it']}" + (" (least)" if least else "")
    return "local" if row["align"] == "0" else f"local, aligned every {row['align']}"


if __name__ == "__main__":
    run_command(main)
