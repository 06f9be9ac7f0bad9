"""Is the plan right? ``python -m benchmarks.planner [--contexts 4g wifi 5g]``.

Runs many plans over emulated links, edge and cloud on a core each and the edge slowed down, and holds each run's step
time against what the profiles and the closed form predict; and the step time of the plan that `ours` chooses against
the best of all that were run.
"""

import csv
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.link.contexts import parse_context
from common.planning.adapt import scaled
from common.planning.plan import Plan
from common.planning.problem import Problem
from common.planning.strategies import Fixed, Ours
from common.profiling.load import load
from common.profiling.profile import Profile
from common.records import check_run_dir
from discriminative.testbed import Testbed

_TABLE = "planner.csv"


@dataclass(frozen=True)
class Options:
    """Predicted against measured step times, and the chosen plan against the best of many runs."""

    contexts: tuple[str, ...] = ("iot", "4g", "wifi", "5g")
    """Links to run."""
    model: str = "resnet20"
    """Model to train."""
    dataset: str = "synthetic"
    """Data set."""
    cuts: tuple[int, ...] = ()
    """Indices of the cuts to run; default five over the model, and both ends."""
    codecs: tuple[str, ...] = ("none", "int8", "int4+zstd")
    """Codecs to run, the same both ways."""
    stale_it: tuple[int, ...] = (0, 2, 4)
    """K to run."""
    slowdown: float = 4.0
    """How much slower the edge is."""
    epochs: int = 1
    """Epochs of 64 steps in a run."""
    batch_size: int = 32
    """Samples of a step."""
    out: Path = Path("runs/planner")
    """Folder of profiles, runs and table; what stands there is not run again."""
    json: Path | None = None
    """Also write the numbers to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Row:
    """A plan that was run."""

    context: str
    cut: int
    codec: str
    stale_it: int
    predicted_s: float = 0.0
    measured_s: float = 0.0

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return abs(self.predicted_s - self.measured_s) / self.measured_s


def main() -> None:
    """Run what is missing, and print what the predictions were worth."""
    options = parse(Options)
    check_run_dir(options.out)
    profile = measured_profile(options.model, options.batch_size, options.codecs, options.out)
    done = {_key(row): row for row in _read(options.out / _TABLE)}
    chosen: dict[str, Plan] = {}
    for context in options.contexts:
        problem = _problem(options, profile, context)
        chosen[context] = Ours().decide(problem)
        wanted = [*_grid(options, profile, context), _row_of(context, chosen[context])]
        with Testbed(context, options.out, quiet=True) as testbed:
            for row in wanted:
                if _key(row) not in done:
                    done[_key(row)] = run = _run(options, problem, testbed, row)
                    _append(options.out / _TABLE, run)
                    print(f"{_key(run)}: {1e3 * run.predicted_s:.1f} ms predicted, {1e3 * run.measured_s:.1f} measured")
    rows = [replace(row, predicted_s=_predict(_problem(options, profile, row.context), row)) for row in done.values()]
    rows = [row for row in rows if row.context in options.contexts]
    print(machine() + "\n")
    table = [_summary(context, rows, chosen[context]) for context in options.contexts]
    print_table(table)
    errors = sorted(row.error for row in rows)
    print(
        f"\n{len(rows)} plans: the prediction is off by {100 * statistics.median(errors):.1f} % (median), "
        f"{100 * errors[int(0.95 * (len(errors) - 1))]:.1f} % (95th percentile)"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "contexts": table, "rows": [*map(asdict, rows)]}))


def measured_profile(model: str, batch_size: int, codecs: Sequence[str], folder: Path) -> Profile:
    """Of this machine, one thread on one core; measured once for each folder."""
    path = folder / f"{model}-{batch_size}.csv"
    if not path.exists():
        command = ["-m", "common.profiling", model, "--batch_size", str(batch_size), "--threads", "1"]
        subprocess.run(
            [sys.executable, *command, "--out", str(path), "--codecs", *codecs], check=True, stdout=sys.stderr
        )
    return load(str(path))


def _problem(options: Options, profile: Profile, context: str) -> Problem:
    codecs = options.codecs
    edge = scaled(profile, options.slowdown)
    return Problem(edge, profile, parse_context(context), codecs_up=codecs, codecs_down=codecs)


def _grid(options: Options, profile: Profile, context: str) -> Iterator[Row]:
    safe = [cut for cut, yes in zip(profile.cuts, profile.safe, strict=True) if yes]
    cuts = options.cuts or tuple(dict.fromkeys(safe[round(i * (len(safe) - 1) / 6)] for i in range(7)))
    for cut, codec, stale_it in itertools.product(cuts, options.codecs, options.stale_it):
        if cut != safe[-1]:
            yield Row(context, cut, codec, stale_it)
    yield Row(context, safe[-1], "none", 0)


def _row_of(context: str, plan: Plan) -> Row:
    both = plan.codec_up if plan.codec_up == plan.codec_down else f"{plan.codec_up} {plan.codec_down}"
    return Row(context, plan.cut, both, plan.stale_it)


def _predict(problem: Problem, row: Row) -> float:
    up, *down = row.codec.split()
    return Fixed(row.cut, up, down[0] if down else up, row.stale_it).decide(problem).prediction.step_s


def _run(options: Options, problem: Problem, testbed: Testbed, row: Row) -> Row:
    up, *down = row.codec.split()
    flags = [
        *("--model", options.model, "--dataset", options.dataset, "--batch_size", str(options.batch_size)),
        *("--epochs", str(options.epochs), "--slowdown", str(options.slowdown), "--checkpoint_every", "-1"),
        *("--compress_up", up, "--compress_down", down[0] if down else up, "--stale_it", str(row.stale_it)),
    ]
    # All on the edge: the engine's own plan, with which nothing crosses.
    local = row.cut == problem.edge.cuts[-1]
    flags += ["--plan", "edge"] if local else ["--cut", str(row.cut)]
    summary, _ = testbed.train(flags)
    return replace(row, predicted_s=_predict(problem, row), measured_s=float(summary["step_time_s"]))


def _summary(context: str, rows: Sequence[Row], plan: Plan) -> dict[str, Any]:
    here = [row for row in rows if row.context == context]
    mine = next(row for row in here if _key(row) == _key(_row_of(context, plan)))
    best = min(here, key=lambda row: row.measured_s)
    errors = sorted(row.error for row in here)
    return {
        "link": context,
        "plans": len(here),
        "median error %": 100 * statistics.median(errors),
        "p95 error %": 100 * errors[int(0.95 * (len(errors) - 1))],
        "chosen": f"{mine.cut}, {mine.codec}, K = {mine.stale_it}",
        "chosen ms": 1e3 * mine.measured_s,
        "best": f"{best.cut}, {best.codec}, K = {best.stale_it}",
        "best ms": 1e3 * best.measured_s,
        "chosen / best": mine.measured_s / best.measured_s,
    }


def _key(row: Row) -> tuple[object, ...]:
    return row.context, row.cut, row.codec, row.stale_it


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    kinds: dict[str, Any] = {each.name: each.type for each in fields(Row)}
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def _append(path: Path, row: Row) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


if __name__ == "__main__":
    run_command(main)
