"""What a run knew of its link and which plan it chose, over time, from its ``plans.jsonl``."""

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.drawing import GREY, Look, line, plain
from common.figures.run_folder import RunFolder
from common.planning.log import Decision

_MOST_CODECS = 8


def draw(look: Look, run: RunFolder) -> Figure:
    """The figure of one run."""
    decisions = run.decisions
    times = [each.wall_s for each in decisions]
    end_s = _end_s(run, decisions)
    figure = look.figure(3.6)
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(3, 2, 2, 3))
    _draw_link(axes[0], decisions, times, end_s)
    _draw_steps(axes[1], [each.plan.cut for each in decisions], times, end_s, 0)
    _draw_codecs(axes[1], decisions, end_s)
    axes[1].set_ylabel("cut\n(codec up / down)")
    axes[1].margins(y=0.35)
    _draw_steps(axes[2], [each.plan.stale_it for each in decisions], times, end_s, 3)
    axes[2].set_ylabel("K")
    axes[2].set_ylim(0, 1.25 * max(each.plan.stale_it for each in decisions) or 1)
    for axis in axes[1:3]:
        axis.yaxis.get_major_locator().set_params(integer=True)
    _draw_times(axes[3], decisions, times, end_s)
    for axis in axes:
        plain(axis)
        for before, each in pairwise(decisions):
            if _moved(before, each):
                axis.axvline(each.wall_s, color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), zorder=0)
    axes[0].set_title(f"{run.label}: dotted where cut or codecs change")
    axes[-1].set_xlabel("time since the start (s)")
    axes[-1].set_xlim(min(0.0, times[0]), end_s)
    return figure


def _draw_link(axis: Axes, decisions: Sequence[Decision], times: Sequence[float], end_s: float) -> None:
    for place, (name, label) in enumerate((("up_bps", "up"), ("down_bps", "down"))):
        rates = [_or_nan(getattr(each.context, name)) / 1e6 for each in decisions]
        _draw_steps(axis, rates, times, end_s, place, label)
    axis.set(ylabel="Mbit/s", ylim=(0, None))
    other = axis.twinx()
    _draw_steps(other, [1e3 * _or_nan(each.context.rtt_s) for each in decisions], times, end_s, 2, "RTT (right)")
    other.set(ylabel="RTT (ms)", ylim=(0, None))
    other.spines["right"].set_visible(True)
    both = [each.get_legend_handles_labels() for each in (axis, other)]
    other.legend(
        [*both[0][0], *both[1][0]], [*both[0][1], *both[1][1]], loc="lower right", bbox_to_anchor=(1, 1), ncols=3
    )


def _draw_steps(
    axis: Axes, values: Sequence[float], times: Sequence[float], end_s: float, place: int, label: str = ""
) -> None:
    """A value that holds until the next decision."""
    axis.step(
        [*times, end_s],
        [*values, values[-1]],
        **line(place),
        where="post",
        label=label or None,
        markevery=max(1, len(times) // 12),
    )


def _draw_codecs(axis: Axes, decisions: Sequence[Decision], end_s: float) -> None:
    """Codecs, where they begin to be other than before; as many as there is room for."""
    shown_s = -math.inf
    before: tuple[str, str] | None = None
    for each in decisions:
        codecs = (each.plan.compress_up, each.plan.compress_down)
        if codecs != before and each.wall_s - shown_s > end_s / _MOST_CODECS:
            shown_s = each.wall_s
            axis.annotate(
                f"{codecs[0]} / {codecs[1]}",
                (each.wall_s, each.plan.cut),
                xytext=(3, 4),
                textcoords="offset points",
                fontsize="x-small",
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
            )
        before = codecs


def _draw_times(axis: Axes, decisions: Sequence[Decision], times: Sequence[float], end_s: float) -> None:
    predicted = [1e3 * _or_nan(each.predicted_step_s) for each in decisions]
    _draw_steps(axis, predicted, times, end_s, 0, "predicted")
    # What the next decision measured is of this one's plan.
    measured = [1e3 * _or_nan(each.measured_step_s) for each in decisions[1:]]
    if any(map(math.isfinite, measured)):
        _draw_steps(axis, measured, times[:-1], times[-1], 1, "measured")
    axis.set(ylabel="step (ms)", ylim=(0, None))
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _moved(before: Decision, each: Decision) -> bool:
    """Whether something must be told to the other side: K alone is the head's own affair."""
    plans = before.plan, each.plan
    return len({(plan.cut, plan.compress_up, plan.compress_down) for plan in plans}) > 1


def _end_s(run: RunFolder, decisions: Sequence[Decision]) -> float:
    """The run's last step, where its steps are there, else a little behind the last decision."""
    last_s = decisions[-1].wall_s
    if run.has("metrics.jsonl"):
        return max(last_s, float(run.steps["wall_s"][-1]))
    return last_s + max(1.0, 0.03 * last_s)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
