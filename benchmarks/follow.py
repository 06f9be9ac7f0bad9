"""Does a plan that follows the network pay? ``python -m benchmarks.follow --trace_up FILE --trace_down FILE``.

Trains the same job over a link that replays a measured trace, from its beginning each time: once with the plan that
adapts, and with fixed plans, each of them the best that there is for some rate of the trace (deciles of its means over
``window_s``), and all on the edge. Edge and cloud have a core each, the edge is slowed down.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.planner import measured_profile
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import LinkContext, parse_context
from common.link.trace import Trace
from common.link.trace_file import read_trace
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
    """A run over the trace."""

    plan: str
    total_s: float
    """All steps of the run, and the pauses between them; without evaluations."""
    of_adaptive: float
    moves: int
    accuracy: float


def main() -> None:
    """Run them all, and print the table."""
    options = parse(Options)
    if options.trace_up is None and options.trace_down is None:
        raise UsageError("there is nothing to follow: give --trace_up, --trace_down, or both")
    for path, way in ((options.trace_up, "up"), (options.trace_down, "down")):
        if path is not None:
            read_trace(path, "up" if way == "up" else "down")  # better told now than behind the profile
    check_run_dir(options.out)
    profile = measured_profile(options.model, options.batch_size, options.codecs, options.out)
    problem = Problem(
        scaled(profile, options.slowdown),
        profile,
        parse_context(options.link),
        codecs_up=options.codecs,
        codecs_down=options.codecs,
    )
    adaptive = _run(options, "adaptive", ["--plan", "ours", "--replan_s", str(options.replan_s), *_choice(options)])
    rows = [adaptive]
    for name, plan in fixed_plans(options, problem).items():
        flags = ["--compress_up", plan.codec_up, "--compress_down", plan.codec_down, "--stale_it", str(plan.stale_it)]
        where = ["--plan", "edge"] if plan.local else ["--cut", str(plan.cut), *flags]
        run = _run(options, f"{name}: {plan.cut_name}, {plan.codec_up}/{plan.codec_down}, K = {plan.stale_it}", where)
        rows.append(replace(run, of_adaptive=run.total_s / adaptive.total_s))
    rows.append(_run(options, "all on the edge", ["--plan", "edge"]))
    rows[-1] = replace(rows[-1], of_adaptive=rows[-1].total_s / adaptive.total_s)
    print(machine() + "\n")
    print_table([asdict(row) for row in rows])
    best = min(rows[1:], key=lambda row: row.total_s)
    verb = "beats every fixed plan" if best.of_adaptive > 1 else "is beaten"
    print(f"\nthe adaptive plan {verb}: the best fixed one ({best.plan}) takes {best.of_adaptive:.2f} x its time")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}))


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
    """A run from the trace's beginning, with a server and a link of its own."""
    traces = [("--trace_up", options.trace_up), ("--trace_down", options.trace_down)]
    link_flags = [each for flag, path in traces if path is not None for each in (flag, str(path.resolve()))]
    job = [
        *("--model", options.model, "--dataset", options.dataset, "--batch_size", str(options.batch_size)),
        *("--epochs", str(options.epochs), "--slowdown", str(options.slowdown), "--checkpoint_every", "-1"),
    ]
    with Testbed(options.link, options.out, link_flags=link_flags, quiet=True) as testbed:
        summary, _ = testbed.train([*job, *flags])
    print(f"{name}: {summary['training_s']:.1f} s", flush=True)
    return Row(name, float(summary["training_s"]), 1.0, int(summary["moves"]), float(summary["accuracy"]))


if __name__ == "__main__":
    run_command(main)
