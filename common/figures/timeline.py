"""The timeline of some steps: what edge, uplink, cloud and downlink do at once, from a run's ``trace.json``."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch

from common.drawing import COLORS, GRID, HATCHES, Look
from common.errors import UsageError
from common.figures.run_folder import RunFolder, Work

_ROWS = {
    "edge load": "edge",
    "edge forward": "edge",
    "edge backward": "edge",
    "edge evaluate": "edge",
    "edge encode": "edge codec",
    "edge decode": "edge codec",
    "uplink": "uplink",
    "cloud decode": "cloud codec",
    "cloud encode": "cloud codec",
    "cloud compute": "cloud",
    "downlink": "downlink",
}
_ORDER = ("edge", "edge codec", "uplink", "cloud codec", "cloud", "downlink")


@dataclass(frozen=True)
class _Kind:
    """How a kind of work is drawn."""

    label: str
    color: str
    hatch: str = ""


_KINDS = {
    "edge forward": _Kind("forward", COLORS[0]),
    "edge backward": _Kind("backward; at K > 0 replay, too", COLORS[5], HATCHES[1]),
    "uplink": _Kind("uplink", COLORS[4]),
    "cloud compute": _Kind("forward, backward (cloud)", COLORS[2]),
    "downlink": _Kind("downlink", COLORS[3], HATCHES[2]),
}
_OTHER = {
    "evaluate": _Kind("evaluation", "#ffffff", HATCHES[3]),
    "load": _Kind("load", "#555555"),
    "encode": _Kind("encode", "#999999"),
    "decode": _Kind("decode", "#cccccc", HATCHES[4]),
}


def draw(look: Look, runs: Sequence[RunFolder], first_step: int = 12, steps: int = 4) -> Figure:
    """The figure of some runs, all over the same time.

    Args:
        look: sizes and letters.
        runs: the runs.
        first_step: where it begins; of a shorter run, its last step that is in the timeline.
        steps: how many steps of the slowest run it shows.

    Raises:
        UsageError: a run without timeline, or numbers of steps that are none.
    """
    figure = look.figure(rows(len(runs)))
    place(figure, runs, first_step, steps)
    return figure


def rows(runs: int) -> float:
    """Height of the timelines of so many runs, as `Look.figure` counts."""
    return 0.35 + 0.95 * runs


def place(figure: FigureBase, runs: Sequence[RunFolder], first_step: int = 12, steps: int = 4) -> None:
    """Draw into a figure, or a part of one; see `draw`."""
    if first_step < 0 or steps < 1:
        raise UsageError(f"--first_step is {first_step} and --steps {steps}; they must be at least 0 and 1")
    shown_ms = 1e3 * steps * max(_step_s(run) for run in runs)
    axes = figure.subplots(len(runs), 1, sharex=True, squeeze=False)[:, 0]
    seen: dict[str, _Kind] = {}
    for axis, run in zip(axes, runs, strict=True):
        seen |= _draw_run(axis, run, first_step, shown_ms)
        axis.set_title(f"{run.label}: {1e3 * _step_s(run):,.1f} ms a step")
    axes[-1].set_xlabel(f"time since the start of step {first_step} (ms); numbers are steps")
    kinds = [seen[key] for key in (*_KINDS, *_OTHER) if key in seen]
    handles = [
        Patch(facecolor=kind.color, hatch=kind.hatch, edgecolor="#333333", linewidth=0.4, label=kind.label)
        for kind in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)


def _draw_run(axis: Axes, run: RunFolder, first_step: int, shown_ms: float) -> dict[str, _Kind]:
    """Draws one run; returns the kinds of work that were drawn."""
    shown = _shown(run, first_step, shown_ms)
    bars: defaultdict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    kinds = {}
    for start_ms, each in shown:
        row = _ORDER.index(_ROWS[each.track])
        key = each.track if each.track in _KINDS else each.name if each.name in _OTHER else "load"
        if 1e3 * each.seconds > 0.003 * shown_ms:  # the legend leaves out what nobody can see
            kinds[key] = _kind(key)
        bars[row, key].append((start_ms, 1e3 * each.seconds))
        if 1e3 * each.seconds > 0.02 * shown_ms and 0 <= start_ms + 500 * each.seconds <= shown_ms:
            axis.text(
                start_ms + 500 * each.seconds,
                row,
                str(each.step),
                ha="center",
                va="center",
                fontsize="x-small",
                clip_on=True,
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
            )
    for (row, key), spans in bars.items():
        kind = _kind(key)
        axis.broken_barh(
            spans,
            (row - 0.4, 0.8),
            facecolor=kind.color,
            hatch=kind.hatch,
            edgecolor="#333333",
            linewidth=0.4,
        )
    rows = sorted({_ORDER.index(_ROWS[each.track]) for _, each in shown})
    axis.set(xlim=(0, shown_ms), ylim=(rows[-1] + 0.6, rows[0] - 0.6))
    axis.set_yticks(rows, [_ORDER[row] for row in rows])
    axis.grid(axis="x", color=GRID)
    return kinds


def _kind(key: str) -> _Kind:
    return _KINDS.get(key) or _OTHER[key]


def _shown(run: RunFolder, first_step: int, shown_ms: float) -> list[tuple[float, Work]]:
    """Work in the window, with its start in ms from the window's."""
    work = [each for each in run.work if each.track in _ROWS]
    # Evaluations number their batches too, but the first to bear a number is the training step.
    training = [each for each in work if each.name != "evaluate"]
    if not training:
        raise UsageError(f"{run.folder / 'trace.json'} holds no training steps; a run that has ended well writes them")
    step = min(first_step, max(each.step for each in training))
    start_s = next((each.start_s for each in training if each.step == step), training[-1].start_s)
    placed = [(1e3 * (each.start_s - start_s), each) for each in work]
    return [(start_ms, each) for start_ms, each in placed if start_ms < shown_ms and start_ms + 1e3 * each.seconds > 0]


def _step_s(run: RunFolder) -> float:
    """Mean step: of the summary, or of the steps so far where the run has not ended."""
    if run.has("summary.json"):
        return run.of_summary("step_time_s")
    wall_s = run.steps["wall_s"]
    return float(wall_s[-1]) / len(wall_s)
