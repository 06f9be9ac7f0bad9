"""Does a plan that follows the network pay? ``python -m benchmarks.follow --trace_up FILE --trace_down FILE``.

Trains the same job over a link that replays a measured trace: with the plan that adapts, and with fixed plans, each of
them the best that there is for some rate of the trace (deciles of its means over ``window_s``), and all on the edge.
Each trains from several ``phases`` of the trace on, and finds the trace there at its first step, however long it has
looked at the link before. Edge and cloud have a core each, the edge is slowed down. `benchmarks.policy` asks the same
without running anything.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planner import measured_profile
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import LinkContext, parse_context
from common.link.trace import Trace
from common.link.trace_file import Direction, read_trace
from common.planning.adapt import scaled
from common.planning.plan import Plan
from common.planning.problem import Problem
from common.planning.strategies import Ours
from common.records import check_run_dir
from discriminative.testbed import Testbed


@dataclass(frozen=True)
class Options:
    """Total time of an adaptive plan and of fixed ones over a link that changes."""

    trace_up: Path | None = None
    """Trace of the way up, as for the link."""
    trace_down: Path | None = None
    """Trace of the way down."""
    link: str = "20/20/40"
    """The link's round trip, and its rates where there is no trace."""
    model: str = "resnet20"
    """Model to train."""
    dataset: str = "synthetic"
    """Data set."""
    codecs: tuple[str, ...] = ("none", "int8", "int4+zstd")
    """Codecs to choose from, both ways."""
    phases: tuple[float, ...] = (0.0, 35.0, 70.0, 105.0)
    """Seconds into the trace at which runs begin to train."""
    epochs: int = 3
    """Epochs of 64 steps."""
    batch_size: int = 32
    """Samples of a step."""
    slowdown: float = 4.0
    """How much slower the edge is."""
    replan_s: float = 2.0
    """Seconds between two looks of the adaptive plan."""
    window_s: float = 5.0
    """Means of the trace over so long are what fixed plans are made for."""
    out: Path = Path("runs/follow")
    """Folder of the profile and the runs."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Row:
    """Runs of a plan over the trace."""

    plan: str
    phases_s: tuple[float, ...]
    """All steps of the run from each phase on, and the pauses between them; without evaluations."""
    moves: int
    accuracy: float
    """Mean of the runs."""

    @property
    def total_s(self) -> float:
        """Of all phases together."""
        return sum(self.phases_s)


def main() -> None:
    """Run them all, and print the table."""
    options = parse(Options)
    if options.trace_up is None and options.trace_down is None:
        raise UsageError("there is nothing to follow: give --trace_up, --trace_down, or both")
    if not options.phases:
        raise UsageError("no run was asked for: give --phases at least one number of seconds")
    if not all(0 <= each < math.inf for each in options.phases):
        raise UsageError(f"--phases are {options.phases}; they are seconds into the trace, 0 or more")
    traces: tuple[tuple[Path | None, Direction], ...] = ((options.trace_up, "up"), (options.trace_down, "down"))
    for path, way in traces:
        if path is not None:
            read_trace(path, way)  # better told now than behind the profile
    check_run_dir(options.out)
    profile = measured_profile(options.model, options.batch_size, options.codecs, options.out)
    problem = Problem(
        scaled(profile, options.slowdown),
        profile,
        parse_context(options.link),
        codecs_up=options.codecs,
        codecs_down=options.codecs,
    )
    follows = ["--plan", "ours", "--replan_s", str(options.replan_s), *_choice(options)]
    _train(replace(options, epochs=1), 0.0, follows)  # profiles, which both sides keep
    rows = [_run(options, "adaptive", follows)]
    for name, plan in fixed_plans(options, problem).items():
        flags = ["--compress_up", plan.codec_up, "--compress_down", plan.codec_down, "--stale_it", str(plan.stale_it)]
        of = f"{name}: {plan.cut_name}, {plan.codec_up}/{plan.codec_down}, K = {plan.stale_it}"
        rows.append(_run(options, of, ["--cut", str(plan.cut), *flags]))
    rows.append(_run(options, "all on the edge", ["--plan", "edge"]))
    table = [_told(row, rows[0], options.phases) for row in rows]
    print(machine() + "\n")
    print_table(table)
    print("\n" + verdict(rows))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}))


def verdict(rows: Sequence[Row]) -> str:
    """How the first row, which adapts, stands against the best of the others, over all phases."""
    adaptive, best = rows[0], min(rows[1:], key=lambda row: row.total_s)
    verb = "beats every fixed plan" if best.total_s > adaptive.total_s else "is beaten"
    ratio = best.total_s / adaptive.total_s
    return f"the adaptive plan {verb}: the best fixed one ({best.plan}) takes {ratio:.2f} x its time"


def _told(row: Row, adaptive: Row, phases: Sequence[float]) -> dict[str, Any]:
    seconds = {f"from_{phase:g}_s": each for phase, each in zip(phases, row.phases_s, strict=True)}
    of_adaptive = row.total_s / adaptive.total_s
    return {"plan": row.plan, **seconds, "of_adaptive": of_adaptive, "moves": row.moves, "accuracy": row.accuracy}


def _choice(options: Options) -> list[str]:
    return ["--plan_codecs_up", *options.codecs, "--plan_codecs_down", *options.codecs]


def fixed_plans(options: Options, problem: Problem) -> dict[str, Plan]:
    """The best plan for each decile of the trace's rates, each plan once; named by the first rates it is best for."""
    base = parse_context(options.link)
    ups = deciles(options.trace_up, "up", options.window_s, base.up_mbps)
    downs = deciles(options.trace_down, "down", options.window_s, base.down_mbps)
    found: dict[str, Plan] = {}
    seen: set[tuple[object, ...]] = set()
    for up, down in zip(ups, downs, strict=True):
        link = LinkContext("decile", up, down, base.rtt_ms, base.jitter_ms)
        plan = Ours().decide(replace(problem, context=link))
        key = (plan.cut, plan.codec_up, plan.codec_down, plan.stale_it)
        if key not in seen and not plan.local:
            seen.add(key)
            found[f"best at {up:.1f}/{down:.1f} Mbit/s"] = plan
    return found


def deciles(path: Path | None, way: str, window_s: float, otherwise: float) -> list[float]:
    """Mbit/s at the 10th, 30th ... 90th percentile of a trace's means over windows."""
    if path is None:
        return [otherwise] * 5
    rates = list(_means(read_trace(path, "up" if way == "up" else "down"), window_s))
    return [max(float(each), 0.1) for each in np.percentile(rates, [10, 30, 50, 70, 90])]


def _means(trace: Trace, window_s: float) -> Iterator[float]:
    for number in range(max(int(trace.duration_s / window_s), 1)):
        start = number * window_s
        yield (trace.carried(start + window_s) - trace.carried(start)) * 8 / window_s / 1e6


def _run(options: Options, name: str, flags: list[str]) -> Row:
    """A run from each phase on."""
    runs = [_train(options, phase, flags) for phase in options.phases]
    seconds = tuple(float(run["training_s"]) for run in runs)
    print(f"{name}: {', '.join(f'{each:.1f}' for each in seconds)} s", flush=True)
    accuracy = sum(float(run["accuracy"]) for run in runs) / len(runs)
    return Row(name, seconds, sum(int(run["moves"]) for run in runs), accuracy)


def _train(options: Options, phase_s: float, flags: list[str]) -> dict[str, Any]:
    """A run with a server and a link of its own, whose trace is at a phase when training begins."""
    traces = [("--trace_up", options.trace_up), ("--trace_down", options.trace_down)]
    link_flags = [each for flag, path in traces if path is not None for each in (flag, str(path.resolve()))]
    job = [
        *("--model", options.model, "--dataset", options.dataset, "--batch_size", str(options.batch_size)),
        *("--epochs", str(options.epochs), "--slowdown", str(options.slowdown), "--checkpoint_every", "-1"),
    ]
    link_flags += ["--trace_start", str(phase_s)]
    with Testbed(options.link, options.out, link_flags=link_flags, quiet=True) as testbed:
        summary, _ = testbed.train([*job, *flags])
    return summary


if __name__ == "__main__":
    run_command(main)
