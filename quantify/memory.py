"""Memory of a command over time: ``python -m quantify.memory [--interval_ms 50] [--out FILE.csv] -- COMMAND...``."""

import os
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from common.command import run_command
from common.config import parse
from common.errors import TandemError
from common.metering.gauges import resident
from common.metering.memory import MemoryMeter, MemorySample
from common.metering.report import MemoryReport
from common.records import write_json
from quantify.memory_table import MemoryTable
from quantify.output import check_outputs, follow
from quantify.target import Target, divided, target


@dataclass(frozen=True)
class Options:
    """Sample the memory of a command and all its children until it ends (behind --), or of a process that runs already.

    The command may name moments of its run: common.metering.marks.mark("epoch 1"), or in a shell
    echo epoch 1 >> $TANDEM_MARKS.
    """

    interval_ms: float = 50.0
    """Time between two samples; it stretches where a sample costs more than 0.5 % of it."""
    pid: int | None = None
    """Measure this process until it ends, or --duration_s have passed, or Ctrl-C."""
    duration_s: float | None = None
    """Measure for so long: the process of --pid, or without it the machine."""
    out: Path = Path("memory.csv")
    """Table to write: time_s, resident_bytes, processes, proportional_bytes, host_used_bytes, events."""
    json: Path | None = None
    """Summary to write: peaks, and what metering cost."""
    plot: Path | None = None
    """Figure to write, PNG or PDF: memory over time."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Measure; the exit code of a command is this program's failure or success."""
    flags, command = divided(sys.argv[1:])
    options = parse(Options, flags)
    check_outputs(options.interval_ms, options.out, options.json, options.plot)
    with (
        target("quantify.memory", command, options.pid, options.duration_s) as measured,
        MemoryTable(options.out) as table,
    ):
        report, code = _measured(measured, options.interval_ms / 1e3, table)
    _tell(report, measured, options)
    if options.plot is not None:
        from quantify.memory_figure import save_figure  # noqa: PLC0415  matplotlib takes a second

        save_figure(options.plot, options.out, report, measured.name)
    if report.failure:
        raise TandemError(report.failure)
    if code:
        raise TandemError(f"the command ended with exit code {code}")


def measure(command: list[str], interval_s: float) -> tuple[list[MemorySample], int]:
    """Run ``command``; its samples and its exit code.

    Raises:
        UsageError: it cannot be started.
    """
    samples = _Samples()
    with target("quantify.memory", command, None, None) as measured:
        _, code = _measured(measured, interval_s, samples)
    return samples.samples, code


class _Samples:
    def __init__(self) -> None:
        self.samples: list[MemorySample] = []

    def add(self, sample: MemorySample, events: object) -> None:
        self.samples.append(sample)


def _measured(measured: Target, interval_s: float, table: "MemoryTable | _Samples") -> tuple[MemoryReport, int]:
    # Process 0 is no process: of the machine, only its own memory is told.
    meter = MemoryMeter(measured.pid or 0, interval_s, on_sample=lambda sample: follow(table, meter, sample, measured))
    meter.start()
    try:
        code = measured.wait()
    finally:
        report = meter.stop()
    if measured.owned:
        report = replace(report, peak_process_bytes=max(report.peak_process_bytes, _ended_peak_bytes()))
    return report, code


def _ended_peak_bytes() -> int:
    """The kernel's word of the children after their end, which misses nothing; 0 where it tells nothing.

    A started program inherits the peak of its starter: only what is above this program's own peak is another's.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    children_bytes = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # Not by getrusage: this program has inherited its own starter's peak there.
    _, own_bytes = resident(os.getpid())
    return children_bytes if children_bytes > own_bytes else 0


def _tell(report: MemoryReport, measured: Target, options: Options) -> None:
    if options.json is not None:
        write_json(options.json, report)
    if measured.process is not None:
        print(
            f"{report.elapsed_s:.2f} s, {report.cost.samples} samples, peak {_mib(report.peak_resident_bytes)} "
            f"resident in {report.peak_processes} processes at {report.peak_resident_s:.2f} s; table: {options.out}"
        )
        print(f"largest peak of one process, as the kernel keeps it: {_mib(report.peak_process_bytes)}")
    if report.peak_proportional_bytes is not None:
        print(f"shared pages counted once: {_mib(report.peak_proportional_bytes)} at most, where that was sampled")
    print(f"machine: {_mib(report.peak_host_bytes)} of {_mib(report.host_bytes)} in use at most")
    print(report.cost)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"


if __name__ == "__main__":
    run_command(main)
