"""Why a plan was chosen, as text: the candidates around it, other K, other codecs, and what would change it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from common.errors import UsageError
from common.planning.changes import Change, Quantity, changes
from common.planning.cost import step_time
from common.planning.grid import Bools, Grid, make_grid
from common.planning.plan import Plan
from common.planning.problem import Problem
from common.planning.strategies import STRATEGIES, Strategy

_MOST_CUTS = 24
_AROUND = 5
_BEST = 5
_MOST_CODECS = 6


def explain(problem: Problem, strategy: Strategy) -> list[str]:
    """The lines of an explanation.

    Raises:
        UsageError: no plan is within the limits.
    """
    plan = strategy.decide(problem)
    grid = make_grid(problem)
    return [
        f"{problem.context}; {problem.edge.model}, batch size {problem.edge.batch_size}; edge: {problem.edge.device}, "
        f"cloud: {problem.cloud.device}",
        f"{plan.strategy} takes {plan}",
        *_reason(plan, problem.context.rtt_ms / 1e3),
        "",
        "The best of each cut, a step being max(T*, (sum T + RTT) / (K + 1)) (in ms; memory of the edge in MiB):",
        *_aligned(_cut_rows(grid, plan)),
        "",
        *([] if plan.local else [*_codec_lines(grid, plan), ""]),
        "What others would take:",
        *_aligned(list(_strategy_rows(problem, plan))),
        "",
        "What would change it:",
        *(line for quantity, found in changes(problem, strategy, plan) for line in change_lines(quantity, found, plan)),
    ]


def change_lines(quantity: Quantity, found: Sequence[Change], plan: Plan) -> Iterator[str]:
    """Where another plan wins, in words."""
    if not found:
        yield f"  {quantity.name}: nothing, within a factor of 100 of {quantity.value:.4g} {quantity.unit}"
    for change in found:
        side = "above" if change.above else "below"
        if change.plan is None:
            wins = "no plan is within the limits"
        elif change.plan.cut != plan.cut:
            wins = f"{_short(change.plan)} wins"
        else:
            wins = f"{change.plan.codec_up} up, {change.plan.codec_down} down wins"
        yield f"  {side} {change.value:.3g} {quantity.unit} {quantity.name}, {wins}"


def _reason(plan: Plan, rtt_s: float) -> Iterator[str]:
    """Which stage is the slowest, and what K does about the others."""
    stages = plan.prediction.stages_s
    named = {"edge": stages.edge, "uplink": stages.uplink, "cloud": stages.cloud, "downlink": stages.downlink}
    yield "  " + ", ".join(f"{name} {1e3 * each:.1f}" for name, each in named.items()) + " ms"
    if plan.local:
        return
    slowest = max(named, key=lambda name: named[name])
    steps = {k: step_time(list(named.values()), rtt_s, k) for k in range(1, plan.stale_it + 2)}
    shown = ", ".join(f"K = {k}: {1e3 * each:.1f}" for k, each in steps.items())
    yield f"  the slowest stage is the {slowest}; {shown} ms" if plan.stale_it else f"  serial, mostly {slowest}"


def _cut_rows(grid: Grid, plan: Plan) -> list[list[str]]:
    heading = ["", "cut", "name", "codecs", "K", "edge", "up", "cloud", "down", "step", "memory", ""]
    scores, allowed = grid.scores(), grid.allowed()
    # Of a cut without any plan within the limits, the one that is fastest, to say why not.
    ranked = np.where(np.isfinite(scores), scores, np.where(np.isfinite(grid.step_s), 1e9 * (1 + grid.step_s), np.inf))
    flat = ranked.reshape(len(ranked), -1)
    best = flat.argmin(axis=1)
    places = _shown(flat.min(axis=1), grid.problem.edge.cuts.index(plan.cut))
    rows = [heading]
    before = -1
    for cut in places:
        if cut != before + 1:
            rows.append(["", "..."] + [""] * (len(heading) - 2))
        before = cut
        up, down = divmod(int(best[cut]), ranked.shape[2])
        one = grid.plan((cut, up, down), plan.strategy)
        p = one.prediction
        stages = (p.stages_s.edge, p.stages_s.uplink, p.stages_s.cloud, p.stages_s.downlink, p.step_s)
        rows.append(
            [
                "*" if one.cut == plan.cut else "",
                str(one.cut),
                one.cut_name,
                "local" if one.local else f"{one.codec_up} / {one.codec_down}",
                str(one.stale_it),
                *(f"{1e3 * each:.1f}" if np.isfinite(each) else "?" for each in stages),
                f"{p.memory_bytes / 2**20:.0f}" if np.isfinite(p.memory_bytes) else "?",
                _why_not(grid, allowed, cut),
            ]
        )
    return rows


def _shown(scores: Sequence[float], chosen: int) -> list[int]:
    """Places of the cuts to show: all, or those around the chosen one, the best, and both ends."""
    if len(scores) <= _MOST_CUTS:
        return list(range(len(scores)))
    around = range(max(chosen - _AROUND, 0), min(chosen + _AROUND + 1, len(scores)))
    return sorted({0, len(scores) - 1, *around, *(int(each) for each in np.argsort(scores)[:_BEST])})


def _why_not(grid: Grid, allowed: Bools, cut: int) -> str:
    limits = grid.problem.limits
    if allowed[cut].any():
        return ""
    if not np.isfinite(grid.step_s[cut]).any():
        return "not measured"
    if not grid.problem.edge.safe[cut]:
        return "not for training"
    if limits.edge_memory_bytes is not None and (grid.memory_bytes[cut] > limits.edge_memory_bytes).all():
        return "too much memory"
    return "no codecs within the limits"


def _codec_lines(grid: Grid, plan: Plan) -> Iterator[str]:
    """The best pairs of codecs at the chosen cut."""
    cut = grid.problem.edge.cuts.index(plan.cut)
    scores = grid.scores()[cut]
    order = [place for place in np.argsort(scores, axis=None, kind="stable") if np.isfinite(scores.flat[place])]
    yield f"Codecs at cut {plan.cut}, the best {min(_MOST_CODECS, len(order))} of {len(order)} (times in ms):"
    rows = [["", "up", "down", "K", "step", "loss"]]
    for place in order[:_MOST_CODECS]:
        up, down = divmod(int(place), scores.shape[1])
        one = grid.plan((cut, up, down), plan.strategy)
        loss = one.prediction.loss_points
        rows.append(
            [
                "*" if (one.codec_up, one.codec_down) == (plan.codec_up, plan.codec_down) else "",
                one.codec_up,
                one.codec_down,
                str(one.stale_it),
                f"{1e3 * one.prediction.step_s:.1f}",
                f"{loss:.2f} points" if np.isfinite(loss) else "not measured",
            ]
        )
    yield from _aligned(rows)


def _strategy_rows(problem: Problem, plan: Plan) -> Iterator[list[str]]:
    for name, make in STRATEGIES.items():
        try:
            other = make().decide(replace(problem, stale_it=None) if name == "ours" else problem)
        except UsageError as error:
            yield [name, "", f"({error})"]
            continue
        ratio = other.prediction.step_s / plan.prediction.step_s
        yield [name, f"{ratio:.2f} x", str(other)]


def _short(plan: Plan) -> str:
    return "all on the edge" if plan.local else f"cut {plan.cut} ({plan.cut_name})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of words at the left, of numbers at the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(not cell or cell[0].isdigit() or cell in "?." for cell in column[1:]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]
