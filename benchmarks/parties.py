"""Two owners of data, each on a link of its own: how near does a step come to its slowest stage?

``python -m benchmarks.parties [--links iot 4g]``. Server and parties are processes; with two cores the server has one,
the parties the other. A step of the joint model needs what both parties send, so the slowest stage of both is the
limit.
"""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any, Literal

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import TandemError
from common.link.contexts import parse_context
from common.link.emulate import Link, Route
from common.planning.log import read_plans
from DIN.demo import ports_of, start

_STAGES = ("edge", "uplink", "cloud", "downlink")
_LIMIT_S = 600.0
_PLANNED = ("none", "fp16", "int8")
_ANY = ("--portA", "0", "--portB", "0", "--hyperport", "0")


@dataclass(frozen=True)
class Options:
    """Step time of vertical training against its slowest stage."""

    links: tuple[str, ...] = ("iot", "4g", "2/8/20 8/8/60")
    """Of both parties; of A and B, where two are given as one word."""
    stale_it: tuple[int, ...] = (0, 3, 5)
    """Staleness bounds to run."""
    plan: bool = False
    """Let each party choose codecs and K by itself (--plan ours) instead, and say what it predicted."""
    label_owner: Literal["B", "server"] = "server"
    """Who has the labels. With B each step's outputs go there and back, a round trip that no K hides."""
    compress: str = "none"
    """Codec of both directions; without one the links are the slowest stages."""
    epochs: int = 1
    """Epochs of each run."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Run all, and print a row for each party of each run."""
    options = parse(Options)
    bounds = ("auto",) if options.plan else map(str, options.stale_it)
    rows = [row for link, k in itertools.product(options.links, bounds) for row in _run(options, link, k)]
    print(machine() + "\n")
    print_table(rows)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}))


def _run(options: Options, links: str, stale_it: str) -> Iterator[dict[str, Any]]:
    names = links.split() * (2 // len(links.split()))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = start(stack, "DIN.server", [*_ANY, "--dataset", "synthetic"], folder)
        *ports, hyperport = map(int, ports_of(server))
        _pin(server, 1)
        flags = ["--epochs", str(options.epochs), "--label_owner", options.label_owner, "--dataset", "synthetic"]
        if options.plan:
            flags += ["--plan", "ours", "--replan_s", "0"]
            flags += ["--plan_codecs_up", *_PLANNED, "--plan_codecs_down", *_PLANNED]
        else:
            flags += ["--stale_it", stale_it, "--compress", options.compress]
        parties = []
        for party, name, port in zip("AB", names, ports, strict=True):
            routes = [Route(("127.0.0.1", 0), ("127.0.0.1", each)) for each in (port, hyperport)]
            link = stack.enter_context(Link(parse_context(name), routes))
            (_, data), (_, control) = link.addresses
            where = ["--portA", str(data), "--portB", str(data), "--hyperport", str(control)]
            parties.append(start(stack, f"DIN.client{party}", [*where, *flags], folder / party))
            _pin(parties[-1], 0)
        summaries = [_summary(each, folder / party) for party, each in zip("AB", parties, strict=True)]
        planned = [_planned(folder / party) if options.plan else {} for party in "AB"]
    limit_s = max(each["limit_s"] for each in summaries)
    for party, name, summary, plan in zip("AB", names, summaries, planned, strict=True):
        stages = {f"{stage}_ms": 1e3 * summary["stages_s"][stage] for stage in _STAGES}
        step_s = summary["step_time_s"]
        yield {
            "link": name,
            "party": party,
            "K": summary["stale_it"],
            **stages,
            "limit_ms": 1e3 * limit_s,
            "step_ms": 1e3 * step_s,
            "of_limit": step_s / limit_s,
            **plan,
        }


def _planned(folder: Path) -> dict[str, Any]:
    """Codecs that a party chose, and what it predicted of a step."""
    (path,) = folder.glob("*/plans.jsonl")
    (decision,) = read_plans(path)
    codecs = f"{decision.plan.compress_up} / {decision.plan.compress_down}"
    return {"codecs": codecs, "predicted_ms": 1e3 * (decision.predicted_step_s or 0.0)}


def _summary(party: "Popen[str]", folder: Path) -> dict[str, Any]:
    party.communicate(timeout=_LIMIT_S)
    if party.returncode:
        raise TandemError(f"a party ended with {party.returncode}; its words are above")
    (path,) = folder.glob("*/summary.json")
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


def _pin(process: "Popen[str]", place: int) -> None:
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(process.pid, {cores[place]})


if __name__ == "__main__":
    run_command(main)
