"""How long does a decision take? ``python -m benchmarks.planning_speed [--cuts 200] [--codecs 8] [--rounds 200]``.

Made-up profiles of a network with so many cuts, and so many codecs in each direction: every decision weighs all cuts,
all pairs of codecs, and K. By strategy and by what constrains it: the median in milliseconds of the clock, and the
95th of 100 in those of the thread's own work, on which other programs weigh less.
"""

import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.link.contexts import LinkContext
from common.planning.losses import LossTable
from common.planning.problem import Current, Limits, Objective, Power, Problem
from common.planning.published import Published
from common.planning.strategies import STRATEGIES, Strategy
from common.profiling.rows import About, BlockRow, CodecRow, Measured

_LIMIT_MS = 5.0
_LARGE = 200  # what the limit is of


@dataclass(frozen=True)
class Options:
    """Time decisions."""

    cuts: int = 200
    """Cuts of the network."""
    codecs: int = 8
    """Codecs in each direction."""
    rounds: int = 200
    """Decisions of each kind."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Time all kinds of decisions and print their rows."""
    options = parse(Options)
    plain = problem(options.cuts, options.codecs)
    pairs = {(up, down): 0.1 for up in plain.edge.activations for down in plain.edge.gradients}
    constrained = replace(
        plain,
        limits=Limits(edge_memory_bytes=200e6, loss_points=0.5),
        losses=LossTable(pairs),
        objective=Objective("weighted"),
        power=Power(8.0, 2.0, 1.0, 0.5),
        current=Current(plain.edge.cuts[options.cuts // 2], 1000.0),
    )
    cases: list[tuple[str, Strategy, Problem]] = [
        ("", STRATEGIES["ours"](), plain),
        ("memory, loss, energy, switch", STRATEGIES["ours"](), constrained),
        *(("", make(), plain) for name, make in STRATEGIES.items() if name != "ours"),
        ("", Published(), plain),
    ]
    rows = [_row(kind, strategy, each, options) for kind, strategy, each in cases]
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


def problem(cuts: int, codecs: int) -> Problem:
    """A made-up network on a slow edge and a fast cloud."""
    edge = made_profile(cuts, codecs, seconds=1e-3, seed=1).profile("edge")
    cloud = made_profile(cuts, codecs, seconds=1e-4, seed=1).profile("cloud")
    return Problem(edge, cloud, LinkContext("", 20, 40, 20))


def made_profile(cuts: int, codecs: int, seconds: float, seed: int) -> Measured:
    """A profile of ``cuts`` cuts whose blocks take some ``seconds`` each; the same sizes for the same seed."""
    rng = np.random.default_rng(seed)
    names = ["none", *(f"int8/{i}" for i in range(1, codecs))]
    rows = []
    for cut in range(cuts):
        times = seconds * (0.5 + rng.random(4)) * (cut > 0)
        raw = float(rng.integers(10_000, 4_000_000))
        table = {}
        for i, name in enumerate(names):
            nbytes, coding_s = raw / (i + 1), seconds * i * rng.random()
            gradient = (nbytes, coding_s, coding_s / 2) if cut else (0.0, 0.0, 0.0)
            table[name] = CodecRow(nbytes, coding_s, coding_s / 2, *gradient)
        sizes = rng.integers(10_000, 400_000, 3) * (cut > 0)
        forward_s, replay_s, backward_s, optimizer_s = map(float, times)
        parameter_bytes, optimizer_bytes, saved_bytes = map(int, sizes)
        rows.append(
            BlockRow(
                cut,
                f"block {cut}",
                "",
                forward_s,
                replay_s,
                backward_s,
                optimizer_s,
                parameter_bytes,
                optimizer_bytes,
                saved_bytes,
                float("nan"),
                table,
            )
        )
    about = About("made up", "made up", 32, "cpu", "made up", 1, 1, "stage", "SGD", "", {})
    return Measured(about, tuple(rows))


def _row(kind: str, strategy: Strategy, each: Problem, options: Options) -> dict[str, Any]:
    strategy.decide(each)
    clock_ms, work_ms = [], []
    for _ in range(options.rounds):
        started, begun = time.perf_counter(), time.thread_time()
        strategy.decide(each)
        work_ms.append(1e3 * (time.thread_time() - begun))
        clock_ms.append(1e3 * (time.perf_counter() - started))
    median, late = statistics.median(clock_ms), sorted(work_ms)[int(0.95 * options.rounds)]
    limited = options.cuts >= _LARGE
    return {
        "strategy": strategy.name,
        "constraints": kind,
        "cuts": len(each.edge.cuts),
        "pairs of codecs": len(each.edge.activations) * len(each.edge.gradients),
        "median_ms": median,
        "p95_work_ms": late,
        "limit_ms": _LIMIT_MS if limited else "",
        "verdict": ("pass" if max(median, late) <= _LIMIT_MS else "FAIL") if limited else "",
    }


if __name__ == "__main__":
    run_command(main)
