"""What does the transport cost? ``python -m benchmarks.transport [--json FILE]``.

Three questions, each side by side in one run of two processes with a core each, over loopback:

1. CPU time (user and system, of both processes) of a request and its reply as checksummed frames, against the same
   bytes through bare ``sendmsg`` and ``recv_into`` on the same socket.
2. What a step at K = 0 takes longer with its tail at a server than with head and tail in one process.
3. CPU time of a process that waits: a server for its next step, an edge for a slow server.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from benchmarks import round_trip
from benchmarks.round_trip import Load
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import TandemError, UsageError

_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 120.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """CPU time of frames, what a remote step adds, and CPU time of waiting."""

    kib: int = 1024
    """Size of the tensor that is sent to and fro."""
    trips: int = 200
    """Round trips of a round."""
    steps: int = 300
    """Steps of a round."""
    rounds: int = 7
    """Rounds of each kind, by turns; the median counts."""
    wait_s: float = 3.0
    """How long the waiting processes wait."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Measure and print the three tables, each with its verdict."""
    options = parse(Options)
    for name in ("kib", "trips", "rounds", "wait_s"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be more than 0")
    if options.steps < 2:
        raise UsageError(f"--steps is {options.steps}; it must be 2 or more, to see the time between two")
    here = machine()
    print(here)
    cores = _two_cores()
    tables = {"round_trip": _round_trip(options, cores), **_steps_and_waiting(options, cores)}
    for rows, verdict in zip(tables.values(), (_frames_verdict, _steps_verdict, _waiting_verdict), strict=True):
        print()
        print_table(rows)
        print(verdict(rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": here, **tables}, indent=2))


def _round_trip(options: Options, cores: tuple[int, int] | tuple[None, None]) -> list[Row]:
    load = Load(options.kib << 10, options.trips, options.rounds)
    with _process(round_trip.serve, load, cores[1]) as pipe:
        mine = round_trip.request(_answer(pipe), load, cores[0])
        theirs = _answer(pipe)
    pairs = list(zip(mine, theirs, strict=True))
    plain = [(a.plain_s + b.plain_s) / load.trips for a, b in pairs]
    frames = [(a.frames_s + b.frames_s) / load.trips for a, b in pairs]
    ratios = [b / a for a, b in zip(plain, frames, strict=True)]
    return [
        _round_trip_row("sendmsg, recv_into", options.kib, plain, [1.0]),
        _round_trip_row("frames", options.kib, frames, ratios),
    ]


def _round_trip_row(way: str, kib: int, seconds: list[float], ratios: list[float]) -> Row:
    return {
        "request and reply by": way,
        "KiB each way": kib,
        "cpu_us": 1e6 * statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
    }


def _steps_and_waiting(options: Options, cores: tuple[int, int] | tuple[None, None]) -> dict[str, list[Row]]:
    from benchmarks import remote_step  # noqa: PLC0415 - torch, which the round trips do without

    with _process(remote_step.serve, options.wait_s, cores[1]) as pipe:
        edge = remote_step.Edge(_answer(pipe), cores[0])
        for run in (edge.in_process_s, edge.remote_s):
            run(options.steps)  # a warm-up
        pairs = [(edge.in_process_s(options.steps), edge.remote_s(options.steps)) for _ in range(options.rounds)]
        server_cpu = _asker(pipe)
        waiting = {"server without a session": _cpu_over(options.wait_s, server_cpu)}
        with edge.attached():
            waiting["server whose edge is silent"] = _cpu_over(options.wait_s, server_cpu)
        waiting["edge whose server is slow"] = edge.waiting_cpu()
        pipe.send(False)
    medians = [tuple(1e3 * statistics.median(each) for each in pair) for pair in pairs]
    steps = [_step_row(number, here, remote) for number, (here, remote) in enumerate(medians)]
    return {"steps": steps, "waiting": [{"who waits": who, "cpu_percent": 100 * cpu} for who, cpu in waiting.items()]}


def _step_row(number: int, in_process_ms: float, remote_ms: float) -> Row:
    return {
        "round": number,
        "in_process_ms": in_process_ms,
        "remote_ms": remote_ms,
        "added_ms": remote_ms - in_process_ms,
    }


def _frames_verdict(rows: list[Row]) -> str:
    ratio = float(rows[1]["ratio"])
    return _verdict(f"frames take {ratio:.2f} x the CPU time of the bare calls", ratio, 1.5, "x")


def _steps_verdict(rows: list[Row]) -> str:
    added = statistics.median(float(row["added_ms"]) for row in rows)
    return _verdict(f"a remote step adds {added:.2f} ms", added, 1.0, "ms")


def _waiting_verdict(rows: list[Row]) -> str:
    percent = max(float(row["cpu_percent"]) for row in rows)
    return _verdict(f"waiting takes up to {percent:.2f} % of a core", percent, 2.0, "%")


def _verdict(finding: str, value: float, target: float, unit: str) -> str:
    return f"{finding}: target of at most {target:g} {unit} {'met' if value <= target else 'MISSED'}"


def _cpu_over(seconds: float, cpu_s: Callable[[], float]) -> float:
    """CPU seconds per second."""
    started_s, before = time.perf_counter(), cpu_s()
    time.sleep(seconds)
    return (cpu_s() - before) / (time.perf_counter() - started_s)


def _asker(pipe: Pipe) -> Callable[[], float]:
    def ask() -> float:
        pipe.send(True)
        return float(_answer(pipe))

    return ask


@contextmanager
def _process(serve: Callable[..., None], *args: object) -> Iterator[Pipe]:
    """Runs ``serve(pipe, *args)`` in a fresh process; it must end by itself."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        yield mine
        process.join(_END_TIMEOUT_S)
    finally:
        process.kill()
        process.join()
        mine.close()


def _answer(pipe: Pipe) -> Any:
    try:
        if pipe.poll(_START_TIMEOUT_S):
            return pipe.recv()
    except EOFError:
        pass
    raise TandemError("the other process of this benchmark died, or said nothing for a minute")


def _two_cores() -> tuple[int, int] | tuple[None, None]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


if __name__ == "__main__":
    run_command(main)
