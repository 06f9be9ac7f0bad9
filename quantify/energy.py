"""Energy while a command runs: ``python -m quantify.energy [--watts 5,15] [--plot FILE.png] -- COMMAND...``."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.command import run_command
from common.config import parse
from common.errors import TandemError, UsageError
from common.metering.constant import parse_watts
from common.metering.detect import Detected, detect
from common.metering.energy import EnergyMeter
from common.metering.report import EnergyReport
from common.metering.traffic import Traffic, traffic
from common.records import write_json
from quantify.energy_table import EnergyTable
from quantify.output import check_outputs, follow
from quantify.target import Target, divided, target

logger = logging.getLogger(__name__)

Name = Literal["ina3221", "jtop", "pmic", "rapl", "battery", "nvml", "constant"]


@dataclass(frozen=True)
class Options:
    """Measure the energy of this machine, rail by rail, while a command (behind --) or a process runs.

    The command may name moments of its run: common.metering.marks.mark("epoch 1"), or in a shell
    echo epoch 1 >> $TANDEM_MARKS.
    """

    interval_ms: float = 50.0
    """Time between two samples; it stretches where a sample costs more than 0.5 % of it."""
    source: tuple[Name, ...] = ()
    """Only these; each must be there. Without: whatever this machine has."""
    watts: str | None = None
    """IDLE,BUSY of the whole machine: a model, weighted by the use of the cores, where nothing can be measured."""
    pid: int | None = None
    """Measure until this process ends, or --duration_s have passed, or Ctrl-C."""
    duration_s: float | None = None
    """Measure for so long."""
    out: Path = Path("energy.csv")
    """Table to write: time_s; watts and joules so far of each rail; events."""
    json: Path | None = None
    """Summary to write: joules, mean and peak watts of each rail, what metering cost."""
    plot: Path | None = None
    """Figure to write, PNG or PDF: watts over time, joules per rail."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Measure; the exit code of a command is this program's failure or success."""
    flags, command = divided(sys.argv[1:])
    options = parse(Options, flags)
    check_outputs(options.interval_ms, options.out, options.json, options.plot)
    found = detect(None if options.watts is None else parse_watts(options.watts), options.source)
    for note in found.notes:
        logger.info("%s", note)
    if not found.sources:
        raise UsageError("this machine has no energy sensor that can be read; --watts IDLE,BUSY takes a model instead")
    before = traffic()
    with target("quantify.energy", command, options.pid, options.duration_s) as measured:
        report, code = measure(found, measured, options.interval_ms / 1e3, options.out)
    _tell(report, traffic().since(before), options)
    if options.plot is not None:
        from quantify.energy_figure import save_figure  # noqa: PLC0415  matplotlib takes a second

        save_figure(options.plot, options.out, report, measured.name)
    if report.failure:
        raise TandemError(report.failure)
    if code:
        raise TandemError(f"the command ended with exit code {code}")


def measure(found: Detected, measured: Target, interval_s: float, out: Path) -> tuple[EnergyReport, int]:
    """Measure to the target's end, writing each sample to the table; the report and the exit code."""
    with EnergyTable(out, [rail for source in found.sources for rail in source.rails]) as table:
        meter = EnergyMeter(found.sources, interval_s, on_sample=lambda sample: follow(table, meter, sample, measured))
        meter.start()
        try:
            code = measured.wait()
        finally:
            report = meter.stop()
    return report, code


def _tell(report: EnergyReport, sent: Traffic, options: Options) -> None:
    if options.json is not None:
        write_json(options.json, {"energy": report, "mean_w": report.mean_w, "network": sent})
    print(f"{'rail':<24}{'feeds':<12}{'joules':>12}{'mean W':>10}{'peak W':>10}")
    for rail in sorted(report.rails, key=lambda rail: -rail.joules):
        name = rail.name if rail.in_total else f"  {rail.name}"
        print(f"{name:<24}{rail.role:<12}{rail.joules:>12.3f}{rail.mean_w:>10.3f}{rail.peak_w:>10.3f}")
        if rail.fault:
            print(f"    {rail.fault}; its joules are of {rail.measured_s:.2f} s")
    print(f"{'total':<36}{report.total_j or 0:>12.3f}{report.mean_w or 0:>10.3f}{report.peak_w or 0:>10.3f}")
    if not all(rail.in_total for rail in report.rails):
        print("indented rails are not in the total: another rail holds their energy, or they feed other boards")
    print(f"sources: {', '.join(report.sources)}")
    print(f"{report.elapsed_s:.2f} s; network: {sent.sent_bytes:,} bytes sent, {sent.received_bytes:,} received")
    print(f"{report.cost}; table: {options.out}")


if __name__ == "__main__":
    run_command(main)
