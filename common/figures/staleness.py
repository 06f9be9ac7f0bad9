"""How stale the gradients of runs were: the share of steps by staleness."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from common.drawing import Look, fill, plain
from common.errors import UsageError
from common.figures.run_folder import RunFolder

_MOST_RUNS_IN_A_COLUMN = 2
_MOST_RUNS_WITH_FIGURES = 4


def draw(look: Look, runs: Sequence[RunFolder]) -> Figure:
    """The figure of some runs.

    Raises:
        UsageError: a run without staleness.
    """
    figure = look.figure(1.3, wide=len(runs) > _MOST_RUNS_IN_A_COLUMN)
    axis = figure.subplots()
    width = 0.8 / len(runs)
    most = 0
    for place, run in enumerate(runs):
        staleness = run.steps["staleness"]
        staleness = staleness[np.isfinite(staleness)]
        if not len(staleness):
            raise UsageError(
                f"{run.folder / 'metrics.jsonl'} has no staleness of any step; a run writes it in each line"
            )
        values, counts = np.unique(staleness.astype(int), return_counts=True)
        most = max(most, int(values[-1]))
        bars = axis.bar(
            values + (place - (len(runs) - 1) / 2) * width,
            100 * counts / counts.sum(),
            width,
            **fill(place),
            label=f"{run.label}: mean {staleness.mean():.2f}",
        )
        if len(runs) <= _MOST_RUNS_WITH_FIGURES:
            axis.bar_label(bars, [f"{100 * each / counts.sum():.3g}" for each in counts], fontsize="x-small", padding=2)
    plain(axis)
    axis.margins(y=0.1)
    axis.set_xticks(range(most + 1))
    axis.set(
        xlabel="staleness: later forward passes before a batch's gradient was applied",
        ylabel="share of the steps (%)",
        xlim=(-0.6, most + 0.6),
    )
    figure.legend(loc="outside lower center", ncols=min(len(runs), 3 if len(runs) > _MOST_RUNS_IN_A_COLUMN else 1))
    return figure
