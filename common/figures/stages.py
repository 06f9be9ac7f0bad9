"""Stages of a step as bars, beside the limit (the slowest of them) and the step as it was."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.drawing import COLORS, Look, fill, plain
from common.figures.run_folder import STAGES, RunFolder

_PLACES = {"edge": 0, "uplink": 4, "cloud": 2, "downlink": 3}
_WIDTH = 0.19
_NARROW = 2  # runs that one column holds
_ROOMY = 5  # runs across the page whose figures stand in one line


def stage_fill(stage: str) -> dict[str, Any]:
    """Colour and hatch of a stage, the same in all figures."""
    return fill(_PLACES[stage])


def draw(look: Look, runs: Sequence[RunFolder]) -> Figure:
    """The figure of some runs."""
    figure = look.figure(1.5, wide=len(runs) > _NARROW)
    axis = figure.subplots()
    for place, run in enumerate(runs):
        _draw_run(axis, place, run, "\n" if len(runs) > _ROOMY else " ")
    plain(axis)
    axis.set_xticks(range(len(runs)), [_name(run, len(runs)) for run in runs])
    axis.tick_params(axis="x", length=0)
    axis.set(ylabel="time of a step (ms)", xlim=(-0.55, len(runs) - 0.45))
    axis.margins(y=0.12)
    axis.yaxis.set_major_formatter("{x:,g}")
    handles: list[Patch | Line2D] = [Patch(**stage_fill(stage), label=stage) for stage in STAGES]
    handles.append(Line2D([], [], color="black", linestyle="--", label="limit: the slowest stage"))
    handles.append(Line2D([], [], color="black", linestyle="", marker="D", label="step, and its ratio to the limit"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6 if len(runs) > _NARROW else 2)
    return figure


def _draw_run(axis: Axes, place: int, run: RunFolder, space: str) -> None:
    stages = run.stages_s
    limit_ms, step_ms = 1e3 * max(stages.values()), 1e3 * run.of_summary("step_time_s")
    for i, stage in enumerate(STAGES):
        axis.bar(place + (i - 1.5) * _WIDTH, 1e3 * stages[stage], _WIDTH, **stage_fill(stage))
    axis.hlines(limit_ms, place - 0.45, place + 0.45, color="black", linestyle="--", linewidth=1)
    axis.plot(place, step_ms, "D", color="black", markeredgecolor="white", zorder=5)
    ratio = f"{space}({step_ms / limit_ms:.2f} x)" if limit_ms and math.isfinite(step_ms) else ""
    axis.annotate(
        f"{step_ms:,.0f} ms{ratio}" if step_ms >= 10 else f"{step_ms:.2g} ms{ratio}",
        (place, max(step_ms, limit_ms)),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        color=COLORS[-1],
        fontsize="small" if space == " " else "x-small",
    )


def _name(run: RunFolder, number: int) -> str:
    """Under the bars: what the run is called, and its K."""
    lines = textwrap.wrap(run.label, max(7, 66 // max(number, 2)), max_lines=3, placeholder="…")
    stale_it = run.summary.get("stale_it")
    return "\n".join([*lines, *([f"K = {stale_it}"] if isinstance(stale_it, int) else [])])
