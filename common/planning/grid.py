"""All candidates of a problem at once: arrays [C, U, D] over cuts, codecs of what goes up, codecs of what comes down.

Of each candidate K is the smallest that saturates its slowest stage, so K is no axis of its own; K = 0 stands against
it, since without staleness the head keeps its graph and does not replay.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError
from common.planning import cost
from common.planning.cost import Floats
from common.planning.plan import Plan, Prediction, Stages
from common.planning.problem import Power, Problem, served
from common.planning.tables import Chosen, Tables, choose_staleness

Bools = NDArray[np.bool_]
Index = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """The candidates of a problem, and what each costs."""

    problem: Problem
    codecs_up: tuple[str, ...]
    codecs_down: tuple[str, ...]
    local: list[int]
    """See `Problem.local`."""
    stages_s: Floats
    """[4, C, U, D]: edge, uplink, cloud, downlink, at the candidate's K."""
    stale_it: Floats
    step_s: Floats
    """NaN where something was not measured."""
    pause_s: Floats
    memory_bytes: Floats
    energy_mj: Floats
    loss_points: Floats

    @property
    def mean_step_s(self) -> Floats:
        """Step time with a share of what the switch to the plan costs."""
        current = self.problem.current
        spread: Floats = self.step_s if current is None else self.step_s + self.pause_s / max(current.remaining, 1.0)
        return spread

    def allowed(self) -> Bools:
        """Which candidates are within all limits and known."""
        limits = self.problem.limits
        allowed = np.isfinite(self.step_s) & self.problem.edge.safe[:, None, None]
        if limits.edge_memory_bytes is not None:
            allowed &= self.memory_bytes <= limits.edge_memory_bytes
        if limits.loss_points is not None:
            allowed &= self.loss_points <= limits.loss_points
        return allowed

    def scores(self) -> Floats:
        """What is to be small; infinite where a candidate is not allowed.

        Raises:
            UsageError: energy counts, and nobody knows it.
        """
        allowed, objective = self.allowed(), self.problem.objective
        time = np.where(allowed, self.mean_step_s, np.inf)
        if objective.goal == "time":
            return time
        energy = np.where(allowed & np.isfinite(self.energy_mj), self.energy_mj, np.inf)
        if np.isfinite(time).any() and not np.isfinite(energy).any():
            raise UsageError(
                f"the objective is {objective.goal}, but {self.problem.edge.source} has no measured energy; "
                "give the power of the edge"
            )
        if objective.goal == "energy":
            return energy
        weight = objective.energy_weight
        with np.errstate(invalid="ignore"):
            score = (1 - weight) * time / time.min(initial=np.inf) + weight * energy / energy.min(initial=np.inf)
        weighted: Floats = np.where(np.isfinite(score), score, np.inf)
        return weighted

    def plan(self, index: Index, strategy: str) -> Plan:
        """The candidate at a place."""
        cut, up, down = index
        edge = self.problem.edge
        stages = [float(each) for each in self.stages_s[:, cut, up, down]]
        local = cut in self.local
        return Plan(
            strategy,
            edge.cuts[cut],
            edge.names[cut],
            local,
            "none" if local else self.codecs_up[up],
            "none" if local else self.codecs_down[down],
            int(self.stale_it[index]),
            Prediction(
                float(self.step_s[index]),
                Stages(*stages),
                max(stages),
                float(self.pause_s[index]),
                float(self.memory_bytes[index]),
                float(self.energy_mj[index]),
                float(self.loss_points[index]),
            ),
        )


def make_grid(problem: Problem) -> Grid:
    """Evaluate all candidates.

    Raises:
        UsageError: no codec in common, or a limit or a switch that asks for what the edge's profile does not have.
    """
    _check_known(problem)
    names_up = problem.codecs_up or tuple(served(problem, "up"))
    names_down = problem.codecs_down or tuple(served(problem, "down"))
    if not names_up or not names_down:
        raise UsageError("the two profiles have no codec in common; profile both devices with the same --codecs")
    tables = Tables(problem, names_up, names_down)
    chosen = choose_staleness(tables)
    losses = np.broadcast_to(problem.losses.of(names_up, names_down), tables.shape).copy()
    losses[tables.local] = 0.0
    return Grid(
        problem,
        names_up,
        names_down,
        tables.local,
        chosen.stages_s,
        chosen.stale_it,
        chosen.step_s,
        _pauses(tables, chosen),
        np.broadcast_to(cost.edge_memory(tables.resident, tables.under_way, chosen.stale_it), tables.shape),
        _energy(problem, chosen),
        losses,
    )


def _check_known(problem: Problem) -> None:
    edge = problem.edge
    if problem.limits.edge_memory_bytes is not None and not np.isfinite(edge.head_peak_bytes).any():
        raise UsageError(f"{edge.source} does not know the edge's memory, so it cannot be limited")
    current = problem.current
    if current is None:
        return
    if current.cut not in edge.cuts:
        raise UsageError(f"the current cut {current.cut} is not in {edge.source}")
    if not np.isfinite(edge.parameter_bytes).any():
        raise UsageError(f"{edge.source} does not know the size of parameters, so what a switch costs is unknown")


def _pauses(tables: Tables, chosen: Chosen) -> Floats:
    """What the switch from the current plan costs each candidate."""
    problem = tables.problem
    current = problem.current
    if current is None:
        return np.zeros(tables.shape)
    place = problem.edge.cuts.index(current.cut)
    state = problem.edge.state_bytes
    to_head = np.arange(len(state)) > place
    to_edge = to_head if problem.edge_holds == "head" else ~to_head
    rate_bps = np.where(to_edge, problem.context.down_bps, problem.context.up_bps)
    moved = np.abs(state - state[place])
    way_s = chosen.stages_s.sum(axis=0) + problem.context.rtt_ms / 1e3
    pauses = cost.switch_time(moved[:, None, None], rate_bps[:, None, None], way_s, chosen.step_s)
    pauses[place] = 0.0
    return pauses


def _energy(problem: Problem, chosen: Chosen) -> Floats:
    edge, power = problem.edge, problem.power or Power()
    own_mj, own_s = (edge.head_mj, edge.head_s) if problem.edge_holds == "head" else (edge.tail_mj, edge.tail_s)
    measured = np.isfinite(own_mj).all()
    if not measured and problem.power is None:
        return np.full(chosen.step_s.shape, np.nan)
    busy_w: Floats | float = power.busy_w
    if measured:
        whole = 0 if problem.edge_holds == "tail" else -1
        usual_mw = own_mj[whole] / own_s[whole]  # where nothing but codecs is computed, as in any other work
        busy_w = (np.divide(own_mj, own_s, out=np.full_like(own_s, usual_mw), where=own_s > 0) / 1e3)[:, None, None]
    return cost.edge_energy(chosen.stages_s, chosen.step_s, busy_w, power.idle_w, power.transmit_w, power.receive_w)
