"""The figure of an energy measurement: watts of each rail over time, joules of each rail."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.drawing import COLORS, DASHES, plain
from common.metering.report import EnergyReport, RailEnergy
from quantify.energy_table import EnergyColumns, read_table
from quantify.timeline import draw_events, save

_REST = "#999999"


def save_figure(path: Path, table: Path, report: EnergyReport, name: str) -> None:
    """Save the figure of a table and its report."""
    columns = read_table(table)
    rails = sorted(report.rails, key=lambda rail: -rail.joules)
    drawn = rails[: len(COLORS)]  # more lines could not be told apart
    figure, (over_time, bars) = plt.subplots(
        1, 2, figsize=(11, max(3.6, 1.6 + 0.32 * len(rails))), layout="constrained", width_ratios=(5, 3)
    )
    _draw_watts(over_time, columns, drawn)
    draw_events(over_time, report.events, columns.times_s[-1])
    _draw_joules(bars, rails)
    _draw_legend(figure, over_time, rails)
    model = any(source.startswith("model") for source in report.sources)
    figures = f"{report.total_j or 0:,.4g} J in {report.elapsed_s:,.4g} s, mean {report.mean_w or 0:.3g} W"
    save(figure, path, f"{name}: {figures}{' (a model, not measured)' if model else ''}")


def _draw_watts(axis: Axes, columns: EnergyColumns, rails: list[RailEnergy]) -> None:
    for rail, color, dashes in zip(rails, COLORS, DASHES, strict=False):
        axis.plot(
            columns.times_s,
            columns.watts[rail.name],
            color=color,
            linestyle=dashes,
            linewidth=1.3,
            label=f"{rail.name} ({rail.role})",
        )
    plain(axis)
    axis.set(xlabel="time (s)", ylabel="power (W)", xlim=(0, columns.times_s[-1] or 1))
    axis.set_ylim(0, 1.02 * axis.get_ylim()[1])


def _draw_joules(axis: Axes, rails: list[RailEnergy]) -> None:
    places = range(len(rails))
    colors = [*COLORS, *[_REST] * len(rails)]
    for place, rail, color in zip(places, rails, colors, strict=False):
        counted = rail.in_total
        axis.barh(
            place,
            rail.joules,
            height=0.7,
            color=color if counted else "white",
            edgecolor=color,
            hatch=None if counted else "////",
        )
        axis.annotate(
            f"{rail.joules:,.3g}{' *' if rail.fault else ''}",
            (rail.joules, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    plain(axis, "x")
    axis.set_yticks(places, [rail.name for rail in rails], fontsize=8)
    axis.set_ylim(max(len(rails), 4) - 0.5, -0.6)
    axis.margins(x=0.18)
    axis.set(xlabel="energy (J)" + ("; * lost for a while" if any(rail.fault for rail in rails) else ""))


def _draw_legend(figure: Figure, axis: Axes, rails: list[RailEnergy]) -> None:
    """Below both parts: the lines, and what hatched bars are."""
    handles, _ = axis.get_legend_handles_labels()
    if not all(rail.in_total for rail in rails):
        handles.append(Patch(color="#777777", label="bar: in the total"))
        handles.append(Patch(facecolor="white", edgecolor="#777777", hatch="////", label="bar: not in the total"))
    hidden = len(rails) - len(COLORS)
    if hidden > 0:
        handles.append(Patch(color=_REST, label=f"{hidden} smaller rails: bars only"))
    figure.legend(handles=handles, frameon=False, fontsize=8, ncols=5, loc="outside lower left")
