"""Memory of a command over time: ``python -m quantify.memory [--interval_ms 50] [--out FILE.csv] -- COMMAND...``."""

import contextlib
import csv
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.command import run_command
from common.config import parse
from common.errors import TandemError, UsageError


@dataclass(frozen=True)
class Options:
    """Run a command and sample the resident memory of it and all its children, until it ends."""

    interval_ms: float = 50.0
    """Time between two samples."""
    out: Path = Path("memory.csv")
    """Table to write: time_s, resident_bytes, processes."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Sample:
    """Memory at one moment."""

    time_s: float
    """Since the start of the command."""
    resident_bytes: int
    """Of the command and its children; pages that they share are counted for each."""
    processes: int


def main() -> None:
    """Measure the command behind ``--``; its exit code is this program's failure or success."""
    flags, command = _divided(sys.argv[1:])
    options = parse(Options, flags)
    if options.interval_ms <= 0:
        raise UsageError(f"--interval_ms is {options.interval_ms:g}; it must be above 0")
    try:
        options.out.touch()
    except OSError as error:
        raise UsageError(f"--out {options.out} cannot be written: {error.strerror}; name another file") from None
    samples, code = measure(command, options.interval_ms / 1e3)
    write_table(options.out, samples)
    peak = max(samples, key=lambda sample: sample.resident_bytes)
    print(
        f"{samples[-1].time_s:.2f} s, {len(samples)} samples, peak {peak.resident_bytes / 2**20:.1f} MiB resident "
        f"in {peak.processes} processes at {peak.time_s:.2f} s; table: {options.out}"
    )
    if code:
        raise TandemError(f"the command ended with exit code {code}")


def measure(command: list[str], interval_s: float) -> tuple[list[Sample], int]:
    """Run ``command``; its samples and its exit code.

    Raises:
        UsageError: it cannot be started.
    """
    start = time.perf_counter()
    try:
        process = psutil.Popen(command)
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be started: {error.strerror}") from None
    samples = []
    try:
        while True:
            samples.append(_sample(process, time.perf_counter() - start))
            with contextlib.suppress(psutil.TimeoutExpired, subprocess.TimeoutExpired):
                return samples, process.wait(interval_s)
    except BaseException:
        process.terminate()  # whoever stops the measurement stops what is measured
        process.wait()
        raise


def write_table(path: Path, samples: list[Sample]) -> None:
    """Write samples as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("time_s", "resident_bytes", "processes"))
        writer.writerows((f"{s.time_s:.4f}", s.resident_bytes, s.processes) for s in samples)


def _sample(process: psutil.Popen, time_s: float) -> Sample:
    resident = processes = 0
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for each in tree:
        try:
            resident += each.memory_info().rss
            processes += 1
        except psutil.NoSuchProcess:
            continue  # it ended between the two looks
    return Sample(time_s, resident, processes)


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in words and ("--help" in words or "-h" in words):
        return words, []
    if "--" not in words or words[-1] == "--":
        raise UsageError("give the command to measure behind --, as in: python -m quantify.memory -- python app.py")
    at = words.index("--")
    return words[:at], words[at + 1 :]


if __name__ == "__main__":
    run_command(main)
