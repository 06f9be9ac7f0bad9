"""Does a run know its link? ``python -m benchmarks.context [--cases constant steps noisy idle] [--stale_it 0 4]``.

Real training over emulated links: server, client and link are processes, edge and cloud have a core each. What the run
wrote into ``metrics.jsonl`` at each step is held against what the link really was at that moment. ``constant``: the
link's rates do not change. ``steps``: 20 Mbit/s, and 5 for half of the time. ``noisy``: another rate each second,
uniform within 50 % around 20 Mbit/s. ``idle``: the steps again, with all of the model on the edge, so that only probes
tell. Beside the estimate stand the rates of single transfers, bytes through seconds of each step.
"""

import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.link.contexts import parse_context
from common.planning.cost import step_time
from discriminative.testbed import Testbed

CASES = ("constant", "steps", "noisy", "idle")
TRAIN = ("--model", "resnet20", "--dataset", "synthetic", "--compress_up", "int8", "--compress_down", "fp16")
EPOCH_STEPS = 64
UP_BYTES, DOWN_BYTES = 131e3, 262e3  # of a step
COMPUTE_S = (0.15, 0.03)  # about: it is only for the length of a run
LINK = "20/20/40"
HIGH, LOW = 20.0, 5.0  # Mbit/s
HALF_S = 25.0
NOISE_S = 300
NEAR = 0.1
_BEGINS_S = 8.0  # of a run: until a first transfer or probe has told

Truth = Callable[[float], float]
"""Mbit/s of the link by seconds since it began."""


@dataclass(frozen=True)
class Options:
    """The estimate of the link, against the truth."""

    cases: tuple[str, ...] = CASES
    """What to run."""
    links: tuple[str, ...] = ("20/20/40", "iot", "4g", "wifi", "5g")
    """Links of the constant case."""
    stale_it: tuple[int, ...] = (0, 4)
    """Staleness bounds to run."""
    cut: str = "features.7"
    """Where the model is cut: 131 kB go up and 262 kB come down in a step."""
    seconds: float = 100.0
    """Of a run over a link that changes; over one that does not, a quarter."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Seen:
    """What a run knew at a step, and when."""

    time_s: float
    """Since the link began."""
    row: dict[str, Any]


def main() -> None:
    """Run all cases and print their tables."""
    options = parse(Options)
    print(machine())
    cases = {"constant": _constant, "steps": _steps, "noisy": _noisy, "idle": _idle}
    results = {}
    for name in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = cases[name](options, Path(folder))
        print(f"\n{name}")
        print_table(results[name])
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "cases": results}, indent=2))


def _constant(options: Options, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for link in options.links:
        context = parse_context(link)
        for stale_it in options.stale_it:
            seen = _run(options, folder, link, stale_it, options.seconds / 4)
            for way, rate in (("up", context.up_mbps), ("down", context.down_mbps)):
                estimates, single = _estimates(seen, way), _single(seen, way)
                rows.append(
                    {
                        "link": link,
                        "K": stale_it,
                        "way": way,
                        "Mbit/s": rate,
                        "steps": len(estimates),
                        **_spread("estimate", estimates),
                        "worst_%": 100 * max(abs(each / rate - 1) for each in estimates),
                        **_spread("single", single),
                        "rtt_ms": 1e3 * seen[-1].row["rtt_s"],
                        "of_ms": context.rtt_ms,
                    }
                )
    return rows


def _steps(options: Options, folder: Path) -> list[dict[str, Any]]:
    return [row for stale_it in options.stale_it for row in _changes(options, folder, stale_it, alone=False)]


def _idle(options: Options, folder: Path) -> list[dict[str, Any]]:
    return _changes(options, folder, 0, alone=True)


def _changes(options: Options, folder: Path, stale_it: int, *, alone: bool) -> list[dict[str, Any]]:
    trace = _trace(folder / "steps.csv", [(0.0, HIGH), (HALF_S, LOW)])
    seen = _run(options, folder, LINK, stale_it, options.seconds, trace, "classifier" if alone else "")

    def truth(time_s: float) -> float:
        return HIGH if time_s % (2 * HALF_S) < HALF_S else LOW

    rows = []
    for way in ("up", "down"):
        known = [each for each in seen if f"{way}_bps" in each.row]
        for change in range(int(known[0].time_s // HALF_S) + 1, int(known[-1].time_s // HALF_S) + 1):
            began_s = change * HALF_S
            behind = [each for each in known if began_s <= each.time_s < began_s + HALF_S]
            if behind[-1].time_s < began_s + 10:
                continue  # the run ended before
            rate = truth(began_s)
            off = [each for each in behind if abs(each.row[f"{way}_bps"] / 1e6 / rate - 1) > NEAR]
            at_10_s = next(each for each in reversed(behind) if each.time_s <= began_s + 10)
            rows.append(
                {
                    "K": "all on the edge" if alone else stale_it,
                    "way": way,
                    "to_Mbit/s": rate,
                    "within_10_%_after_s": (off[-1].time_s if off else began_s) - began_s,
                    "estimate_10_s_after": at_10_s.row[f"{way}_bps"] / 1e6,
                    "at_the_end": behind[-1].row[f"{way}_bps"] / 1e6,
                }
            )
    return rows


def _noisy(options: Options, folder: Path) -> list[dict[str, Any]]:
    rng, rows = random.Random(7), []
    rates = [rng.uniform(0.5, 1.5) * HIGH for _ in range(NOISE_S)]
    trace = _trace(folder / "noisy.csv", list(enumerate(rates)))
    for stale_it in options.stale_it:
        seen = _run(options, folder, LINK, stale_it, options.seconds, trace)
        first, last = int(seen[0].time_s), int(seen[-1].time_s)
        here = [rates[second % NOISE_S] for second in range(first, last + 1)]
        rows += [
            {
                "K": stale_it,
                "way": way,
                **_spread("link", here),
                "steps": len(seen),
                **_spread("estimate", _estimates(seen, way)),
                **_spread("single", _single(seen, way)),
            }
            for way in ("up", "down")
        ]
    return rows


def _run(
    options: Options,
    folder: Path,
    link: str,
    stale_it: int,
    seconds: float,
    trace: Sequence[str] = (),
    cut: str = "",
) -> list[Seen]:
    """Train over a link for about so many seconds; what the run knew behind its first ones."""
    context = parse_context(link)
    stages = [*COMPUTE_S, 8e-6 * UP_BYTES / context.up_mbps, 8e-6 * DOWN_BYTES / context.down_mbps]
    steps = seconds / (sum(COMPUTE_S) if cut else step_time(stages, context.rtt_ms / 1e3, stale_it))
    with Testbed(link, folder, link_flags=trace, quiet=True) as testbed:
        link_began = time.time()
        flags = [*TRAIN, "--cut", cut or options.cut, "--stale_it", str(stale_it)]
        _, run = testbed.train([*flags, "--epochs", str(math.ceil(steps / EPOCH_STEPS))])
    began_s = (run / "environment.json").stat().st_mtime - link_began
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [Seen(began_s + row["wall_s"], row) for row in rows if row["wall_s"] > _BEGINS_S]


def _trace(path: Path, rates: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """Flags of a link that replays rates both ways, over and over; the last one lasts as long as the one before."""
    path.write_text("time_s,up_mbps,down_mbps\n" + "".join(f"{time_s},{rate},{rate}\n" for time_s, rate in rates))
    return "--trace_up", str(path), "--trace_down", str(path)


def _estimates(seen: Sequence[Seen], way: str) -> list[float]:
    return [each.row[f"{way}_bps"] / 1e6 for each in seen]


def _single(seen: Sequence[Seen], way: str) -> list[float]:
    """Mbit/s of single steps."""
    stage = {"up": "uplink_s", "down": "downlink_s"}[way]
    return [8e-6 * each.row[f"bytes_{way}"] / each.row[stage] for each in seen if each.row[stage]]


def _spread(name: str, values: Sequence[float]) -> dict[str, str]:
    """Least, middle and largest."""
    return {name: f"{min(values):.1f} {median(values):.1f} {max(values):.1f}"}


if __name__ == "__main__":
    run_command(main)
