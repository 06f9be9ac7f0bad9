"""Strategies against each other: ``python -m baseline.compare --model VGG19 --dataset cifar10 --contexts iot 4g``.

For each context a server, an emulated link and, one after the other, a client for each strategy: edge-only, cloud-only,
JointDNN, a fixed plan, and ours. All train the same model on the same data from the same seed, so what differs is where
and when things are computed, and what the codecs lose. A run that is in the table already is not run again.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from common.command import run_command
from common.config import parse
from common.drawing import LOOKS, save
from common.errors import UsageError
from common.figures.comparison import Compared, draw, save_comparison
from common.link.contexts import parse_context
from common.records import check_run_dir
from discriminative.testbed import Testbed

Name = Literal["edge", "cloud", "jointdnn", "neurosurgeon", "fixed", "ours"]
_TABLE, _COMPARISON, _FIGURE = "compare.csv", "comparison.csv", "comparison.png"
_NAN = math.nan


@dataclass(frozen=True)
class Options:
    """Train the same job by several strategies over several links, and compare them."""

    model: str = "VGG19"
    """Model, as for the client."""
    dataset: str = "cifar10"
    """Data set, as for the client."""
    data_path: Path = Path("data")
    """Where data sets are."""
    num_classes: int = 10
    """Width of the model's last layer."""
    contexts: tuple[str, ...] = ("iot", "4g", "wifi", "5g")
    """Links: names, or UP/DOWN/RTT in Mbit/s and ms."""
    strategies: tuple[Name, ...] = ("edge", "cloud", "jointdnn", "fixed", "ours")
    """What to compare."""
    fixed: str = ""
    """Flags of the fixed plan; default the client's own cut, codecs and K."""
    codecs: tuple[str, str] = ("", "")
    """Codecs up and down that `ours` may take beside none; default the client's."""
    epochs: int = 3
    """Epochs of each run."""
    batch_size: int = 32
    """Samples of a step."""
    lr: float = 0.0
    """First learning rate; 0 takes the preset's."""
    optim: str = "resnet"
    """Optimizer preset."""
    seed: int = 0
    """Seed of all runs."""
    slowdown: float = 8.0
    """How much slower the edge is than the cloud: about 8 stands for a TX2 beside a server's core."""
    out: Path = Path("runs/compare")
    """Folder of the runs, the table and the figure."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Run:
    """What came of a strategy in a context; a row of the table."""

    context: str
    strategy: str
    cut_name: str = ""
    compress_up: str = ""
    compress_down: str = ""
    stale_it: int = 0
    moves: int = 0
    step_time_s: float = _NAN
    accuracy: float = _NAN
    training_s: float = _NAN
    bytes: float = _NAN
    energy_mj: float = _NAN
    edge_peak_memory_bytes: float = _NAN
    folder: str = ""


def main() -> None:
    """Run what is missing, print the table, draw the figure."""
    options = parse(Options)
    contexts = [parse_context(each).name for each in options.contexts]
    if options.epochs < 1:
        raise UsageError(f"--epochs is {options.epochs}; a comparison needs 1 or more")
    check_run_dir(options.out)
    done = _read(options.out / _TABLE)
    for context, name in zip(options.contexts, contexts, strict=True):
        if "edge" in options.strategies and (name, "edge") not in done:
            _take_over(options, done, name)
        missing = [each for each in options.strategies if (name, each) not in done]
        if not missing:
            continue
        with Testbed(context, options.out, quiet=True) as testbed:
            for strategy in missing:
                print(f"{name}: {strategy} ...", flush=True)
                summary, folder = testbed.train(flags(options, strategy))
                done[name, strategy] = run = _run(name, strategy, summary, folder)
                _append(options.out / _TABLE, run)
    runs = [run for (context, strategy), run in done.items() if context in contexts and strategy in options.strategies]
    rows = compared(runs)
    print(_table(runs, rows))
    for line in verdicts(rows):
        print(line)
    save_comparison(options.out / _COMPARISON, rows)
    with LOOKS["screen"].applied() as look:
        save(draw(look, rows), options.out / _FIGURE, look.dpi)
    print(f"\ntable: {options.out / _TABLE}\nfigure: {options.out / _FIGURE}")


def _take_over(options: Options, done: dict[tuple[str, str], Run], context: str) -> None:
    """All of the model on the edge sends nothing: what was measured beside one link holds beside any."""
    for measured in [run for (_, strategy), run in done.items() if strategy == "edge"][:1]:
        done[context, "edge"] = run = replace(measured, context=context)
        _append(options.out / _TABLE, run)


def flags(options: Options, strategy: Name) -> list[str]:
    """The client's flags for a strategy."""
    job = [
        *("--model", options.model, "--dataset", options.dataset, "--data_path", str(options.data_path.resolve())),
        *("--num_classes", str(options.num_classes), "--epochs", str(options.epochs), "--lr", str(options.lr)),
        *("--batch_size", str(options.batch_size), "--optim", options.optim, "--seed", str(options.seed)),
        *("--slowdown", str(options.slowdown), "--checkpoint_every", "-1", "--log_name", strategy),
    ]
    if strategy == "fixed":
        return [*job, *options.fixed.split()]
    up, down = options.codecs
    if strategy == "ours" and (up or down):
        job += [*(("--compress_up", up) if up else ()), *(("--compress_down", down) if down else ())]
    return [*job, "--plan", strategy]


def compared(runs: Sequence[Run]) -> list[Compared]:
    """What the figure shows. The accuracy of a context is the one that all its strategies reach."""
    rows = []
    for run in runs:
        goal = min((each.accuracy for each in runs if each.context == run.context), default=0.0)
        rows.append(
            Compared(
                run.context,
                run.strategy,
                run.step_time_s,
                time_to(Path(run.folder), goal),
                run.bytes,
                run.energy_mj,
                run.edge_peak_memory_bytes,
            )
        )
    return rows


def time_to(folder: Path, accuracy: float) -> float:
    """Seconds of a run until the first epoch whose held-out accuracy is as good; evaluations count."""
    try:
        with (folder / "epochs.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if float(row["accuracy"]) >= accuracy:
                    return float(row["wall_s"])
    except OSError:
        return _NAN
    return _NAN


def verdicts(rows: Sequence[Compared]) -> list[str]:
    """Ours against the best of the others that plan nothing for the network, in each context."""
    lines = []
    for context in dict.fromkeys(row.context for row in rows):
        here = {row.strategy: row.time_to_accuracy_s for row in rows if row.context == context}
        others = {name: here[name] for name in ("edge", "cloud", "jointdnn") if not math.isnan(here.get(name, _NAN))}
        if "ours" not in here or not others:
            continue
        best = min(others, key=others.__getitem__)
        ratio = others[best] / here["ours"]
        verb = "wins" if ratio > 1 else "loses"
        lines.append(f"{context}: ours {verb}: {ratio:.2f} x the speed of {best}, the best of {', '.join(others)}")
    return lines


def _run(context: str, strategy: str, summary: dict[str, Any], folder: Path) -> Run:
    nbytes = summary["steps"] * (summary["bytes_up_per_step"] + summary["bytes_down_per_step"])
    values = {each.name: summary[each.name] for each in fields(Run) if summary.get(each.name) is not None}
    return replace(Run(context, strategy), **values, bytes=nbytes, folder=str(folder))


def _read(path: Path) -> dict[tuple[str, str], Run]:
    if not path.exists():
        return {}
    kinds: dict[str, Any] = {each.name: each.type for each in fields(Run)}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(kinds):
            raise UsageError(f"{path} is no table of this program; name another folder with --out")
        rows = [Run(**{name: kinds[name](value) for name, value in row.items()}) for row in reader]
    return {(row.context, row.strategy): row for row in rows}


def _append(path: Path, run: Run) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Run)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(run))


def _table(runs: Sequence[Run], rows: Sequence[Compared]) -> str:
    heading = ["context", "strategy", "plan", "step ms", "accuracy %", "to accuracy s", "MB", "J", "edge MiB"]
    cells = [heading]
    for run, row in zip(runs, rows, strict=True):
        plan = f"{run.cut_name}, {run.compress_up}/{run.compress_down}, K = {run.stale_it}"
        plan += f", moved {run.moves} x" if run.moves else ""
        numbers = (
            1e3 * run.step_time_s,
            100 * run.accuracy,
            row.time_to_accuracy_s,
            run.bytes / 1e6,
            run.energy_mj / 1e3,
            run.edge_peak_memory_bytes / 2**20,
        )
        cells.append([run.context, run.strategy, plan, *("" if math.isnan(n) else f"{n:.1f}" for n in numbers)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_command(main)
