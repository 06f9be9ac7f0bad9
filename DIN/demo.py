"""Two parties and a server in a minute: ``python -m DIN.demo``, or ``make demo-din``.

Made-up users are trained on by processes on this machine, over TCP: party A, party B, and the server with the top
model; then all in one process. Both are the same to the last bit, and near what the made-up chances allow.
"""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command import run_command
from common.config import parse
from common.errors import TandemError, UsageError
from common.records import check_run_dir
from DIN.options import BaseOptions
from DIN.report import ceiling, report
from DIN.train import plan_all, train_in_process

_STARTED_S, _TRAINED_S = 60.0, 600.0
_LISTENS = re.compile(r"portA (\d+), portB (\d+), hyperport (\d+)")


@dataclass(frozen=True)
class DemoOptions:
    """Train with two parties and a server, then in one process, and compare."""

    epochs: int = 5
    """How often the samples are gone through."""
    optim: str = "imdb"
    """Optimizer preset: imdb (Adam) learns more of these few samples than din, the published one."""
    stale_it: int = 3
    """Staleness bound K."""
    run_dir: Path = Path("runs")
    """Where run folders go."""
    debug: bool = False
    """Show tracebacks and debug messages."""


def main() -> None:
    """Run both, and compare."""
    options = parse(DemoOptions)
    if options.epochs < 1:
        raise UsageError(f"--epochs is {options.epochs}; a comparison needs 1 or more")
    check_run_dir(options.run_dir)
    flags = ["--epochs", str(options.epochs), "--optim", options.optim, "--stale_it", str(options.stale_it)]
    print("party A, party B and the server, over TCP on this machine", flush=True)
    folder = options.run_dir / f"{time.strftime('%Y%m%d-%H%M%S')}-demo-din"
    with ExitStack() as stack:
        server = start(stack, "DIN.server", ["--portA", "0", "--portB", "0", "--hyperport", "0"], folder)
        port_a, port_b, hyperport = ports_of(server)
        where = ["--portA", port_a, "--portB", port_b, "--hyperport", hyperport]
        parties = [start(stack, f"DIN.client{name}", [*where, *flags], folder / name) for name in "AB"]
        for name, each in zip("AB", parties, strict=True):
            told, _ = each.communicate(timeout=_TRAINED_S)
            if each.returncode:
                raise TandemError(f"party {name} ended with {each.returncode}; its words are above")
            print(told.strip())
    print("\nthe same in one process", flush=True)
    base = BaseOptions(epochs=options.epochs, optim=options.optim, stale_it=options.stale_it, run_dir=folder, threads=1)
    base.prepare()
    plans = plan_all(base)
    runs = train_in_process(plans, base)
    print("\n".join(report(run) for run in runs))
    equal = [run.summary["parameters_digest"] for run in runs] == [_digest(folder / name) for name in "AB"]
    print(f"\nall weights are the same, bit for bit: {'yes' if equal else 'NO'}\n{ceiling(plans[0].data)}")
    if not equal:
        raise TandemError("the two runs differ; on one machine that is an error: please report it")


def start(stack: ExitStack, module: str, flags: list[str], run_dir: Path) -> "subprocess.Popen[str]":
    """One of the programs, with a thread of its own, as long as the stack is open."""
    command = [sys.executable, "-m", module, *flags, "--threads", "1", "--run_dir", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    stack.callback(_stop, process)
    return process


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_STARTED_S)
    finally:
        process.kill()
        if process.stdout is not None:
            process.stdout.close()


def ports_of(server: "subprocess.Popen[str]") -> tuple[str, str, str]:
    """Ports for party A, for all others, and for control, of a server that has just been started."""
    line = server.stdout.readline() if server.stdout is not None else ""
    found = _LISTENS.search(line)
    if found is None:
        raise TandemError(f"the server did not start: {line.strip() or 'its words are above'}")
    port_a, port_b, hyperport = found.groups()
    return port_a, port_b, hyperport


def _digest(run_dir: Path) -> Any:
    (summary,) = run_dir.glob("*/summary.json")
    return json.loads(summary.read_text())["parameters_digest"]


if __name__ == "__main__":
    run_command(main)
