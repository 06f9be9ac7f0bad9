"""The published decision engine, as it decides: Yao et al. 2021, IMWUT 5(4) 188, and the code published with it.

Slices are 0 ... L - 1. For a cut behind slice i < L - 1, with or without 8-bit quantisation of the activations:

    T1 = edge(i) [+ qtime]    T2 = features(i) / up [/ 4]    T3 = cloud(i)    T4 = features(i) / down

so gradients travel as float32. The cost is `cost.paper_total_time` of r remaining steps, and for all slices on the
edge ``r * edge(L - 1)``; to either comes ``T_update``, the parameters of the slices that move over the downlink
where the edge grows, else over the uplink. The least cost wins. It knows no RTT, no memory, and no time of decoding.
"""

import math
from dataclasses import dataclass

import numpy as np

from common.errors import UsageError
from common.planning.cost import Floats, paper_total_time
from common.planning.plan import Plan, Prediction, Stages
from common.planning.problem import Problem

DEFAULT_STALE_IT = 4
_MANY_STEPS = 10_000.0


@dataclass(frozen=True)
class Candidates:
    """Costs of the published engine, by cut behind slice i: plain in column 0, quantised in column 1."""

    stages_s: Floats
    """[4, L - 1, 2]"""
    total_s: Floats
    """[L - 1, 2], without the switch."""
    local_s: float
    """All on the edge, without the switch."""
    switch_s: Floats
    """[L]: T_update to the cut behind each slice."""


@dataclass(frozen=True)
class Published:
    """The published engine as a strategy; a quantised plan is called ``int8`` up, ``none`` down."""

    qtime_s: float = 0.0
    """Its ``--qtime``: time that quantising adds to the edge, a constant of the user's."""
    name: str = "paper"

    def decide(self, problem: Problem) -> Plan:
        found = candidates(problem, self.qtime_s)
        remaining, stale_it = _remaining(problem), _stale_it(problem)
        costs = found.total_s + found.switch_s[:-1, None]
        local_cost = found.local_s + found.switch_s[-1]
        if np.isnan(costs).all():
            raise UsageError(
                f"{problem.edge.source} and {problem.cloud.source} do not have what the paper's cost needs"
            )
        place = int(np.nanargmin(costs))
        behind, quantised = divmod(place, 2)
        local = bool(local_cost < costs.flat[place])
        if local:
            behind, quantised, stale_it = len(found.switch_s) - 1, 0, 0
        step_s = (found.local_s if local else float(found.total_s[behind, quantised])) / remaining
        stages = [step_s, 0.0, 0.0, 0.0] if local else [float(each) for each in found.stages_s[:, behind, quantised]]
        return Plan(
            self.name,
            problem.edge.cuts[behind + 1],
            problem.edge.names[behind + 1],
            local,
            "int8" if quantised else "none",
            "none",
            stale_it,
            Prediction(
                step_s,
                Stages(*stages),
                max(stages),
                float(found.switch_s[behind]),
                math.nan,
                math.nan,
                math.nan,
            ),
        )


def candidates(problem: Problem, qtime_s: float = 0.0) -> Candidates:
    """What every plan costs by the published closed form.

    Raises:
        UsageError: the edge has the tail, or the size of parameters is unknown and the cut may move.
    """
    if problem.edge_holds != "head":
        raise UsageError("the paper's cost is of an edge that has the head")
    edge, cloud, context = problem.edge, problem.cloud, problem.context
    features = edge.activations["none"].nbytes[1:-1] * 8
    stages = np.empty((4, len(features), 2))
    stages[0] = edge.head_s[1:-1, None] + np.array([0.0, qtime_s])
    stages[1] = features[:, None] / context.up_bps / np.array([1.0, 4.0])
    stages[2] = cloud.tail_s[1:-1, None]
    stages[3] = features[:, None] / context.down_bps
    remaining = _remaining(problem)
    total = paper_total_time(stages, remaining, _stale_it(problem))
    return Candidates(stages, total, edge.local_s * remaining, _switches(problem))


def _switches(problem: Problem) -> Floats:
    edge, current = problem.edge, problem.current
    if current is None:
        return np.zeros(len(edge.cuts) - 1)
    place = edge.cuts.index(current.cut)
    sizes = edge.parameter_bytes[1:] - edge.parameter_bytes[place]
    if np.isnan(sizes).any():
        raise UsageError(f"{edge.source} does not know the size of parameters, so what a switch costs is unknown")
    switches: Floats = np.where(sizes > 0, sizes / problem.context.down_bps, -sizes / problem.context.up_bps) * 8
    return switches


def _remaining(problem: Problem) -> float:
    return _MANY_STEPS if problem.current is None else problem.current.remaining


def _stale_it(problem: Problem) -> int:
    return DEFAULT_STALE_IT if problem.stale_it is None else problem.stale_it
