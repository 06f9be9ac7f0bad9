"""The figure of a memory measurement: memory of the processes over time, and that of the machine."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from common.drawing import COLORS, plain
from common.metering.report import MemoryReport
from quantify.memory_table import MemoryColumns, read_table
from quantify.timeline import draw_events, save

_MIB = 2**20


def save_figure(path: Path, table: Path, report: MemoryReport, name: str) -> None:
    """Save the figure of a table and its report."""
    columns = read_table(table)
    parts = 2 if report.peak_processes else 1  # of the machine alone there is no process to show
    figure, axes = plt.subplots(
        parts,
        1,
        figsize=(9, 2.7 * parts),
        sharex=True,
        layout="constrained",
        squeeze=False,
        height_ratios=(3, 2)[-parts:],
    )
    if report.peak_processes:
        _draw_processes(axes[0][0], columns, report)
    draw_events(axes[0][0], report.events, columns.times_s[-1])
    lower = axes[-1][0]
    lower.plot(columns.times_s, [each / _MIB for each in columns.host_used_bytes], color=COLORS[2], linewidth=1.3)
    plain(lower)
    lower.set(
        xlabel="time (s)",
        ylabel="machine (MiB)",
        xlim=(0, columns.times_s[-1] or 1),
        title=f"in use on the whole machine, of {report.host_bytes / _MIB:,.0f} MiB",
    )
    lower.title.set(fontsize=9, ha="left", position=(0, 1))
    lower.yaxis.set_major_formatter("{x:,.0f}")
    peak_bytes = report.peak_resident_bytes if report.peak_processes else report.peak_host_bytes
    save(figure, path, f"{name}: peak {peak_bytes / _MIB:,.1f} MiB {'resident' if report.peak_processes else 'in use'}")


def _draw_processes(axis: Axes, columns: MemoryColumns, report: MemoryReport) -> None:
    resident = [each / _MIB for each in columns.resident_bytes]
    axis.plot(
        columns.times_s, resident, color=COLORS[0], linewidth=1.5, label="resident, shared pages counted for each"
    )
    if columns.proportional:
        axis.plot(
            [time_s for time_s, _ in columns.proportional],
            [each / _MIB for _, each in columns.proportional],
            color=COLORS[1],
            linestyle="",  # it is read now and then; what is between is not known
            marker="o",
            markersize=4,
            label="with shared pages divided",
        )
    kernel_mib = report.peak_process_bytes / _MIB
    axis.axhline(kernel_mib, color="#555555", linewidth=0.8, linestyle=":", label="largest process's peak (kernel)")
    axis.plot(report.peak_resident_s, report.peak_resident_bytes / _MIB, "v", color=COLORS[0], markersize=6)
    plain(axis)
    axis.set(ylabel="processes (MiB)", ylim=(0, None))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.02))
