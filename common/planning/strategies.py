"""Ways to choose a plan, behind one interface: this project's own, and those that it is held against."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from common.errors import UsageError
from common.naming import nearest
from common.planning.cost import Floats
from common.planning.grid import Bools, Grid, make_grid
from common.planning.plan import Plan
from common.planning.problem import Problem


class Strategy(Protocol):
    """Chooses a plan for a problem."""

    @property
    def name(self) -> str:
        """As records call it."""

    def decide(self, problem: Problem) -> Plan:
        """The plan.

        Raises:
            UsageError: no candidate is within the limits; it says which limit ruled them out.
        """


@dataclass(frozen=True)
class Ours:
    """The best of all cuts, codecs and K."""

    name: str = "ours"

    def decide(self, problem: Problem) -> Plan:
        return best(make_grid(problem), self.name)


@dataclass(frozen=True)
class JointDnn:
    """The best cut of serial training, without codecs (Eshratifar et al., IEEE TMC 2021).

    Edge, uplink, cloud and downlink work one behind the other: K = 0. Of their plans those with one cut are taken.
    """

    codec_up: str = "none"
    codec_down: str = "none"
    name: str = "jointdnn"

    def decide(self, problem: Problem) -> Plan:
        serial = replace(problem, stale_it=0, codecs_up=(self.codec_up,), codecs_down=(self.codec_down,))
        return best(make_grid(serial), self.name)


@dataclass(frozen=True)
class Neurosurgeon:
    """The best cut of inference (Kang et al., ASPLOS 2017), trained serially and without codecs.

    What it minimises is the latency of a forward pass: head, upload of the activations, tail. Its energy is that of
    the edge's compute and radio in the same pass.
    """

    codec_up: str = "none"
    codec_down: str = "none"
    name: str = "neurosurgeon"

    def decide(self, problem: Problem) -> Plan:
        if problem.edge_holds != "head":
            raise UsageError("neurosurgeon sends activations from the edge to the cloud; here the edge has the tail")
        serial = replace(problem, stale_it=0, codecs_up=(self.codec_up,), codecs_down=(self.codec_down,))
        grid, edge = make_grid(serial), problem.edge
        sent_bytes = edge.activations[self.codec_up].nbytes + problem.message_bytes
        uplink_s = sent_bytes * 8 / problem.context.up_bps
        uplink_s[grid.local] = 0.0
        latency_s = edge.head_forward_s + uplink_s + problem.cloud.tail_forward_s
        if not np.isfinite(latency_s).any():
            raise UsageError(f"neurosurgeon needs times of forward passes, which {edge.source} does not have")
        scores = latency_s
        if problem.objective.goal != "time":
            if problem.power is None:
                raise UsageError("neurosurgeon's energy needs the power of the edge")
            energy = problem.power.busy_w * edge.head_forward_s + problem.power.transmit_w * uplink_s
            weight = problem.objective.energy_weight if problem.objective.goal == "weighted" else 1.0
            scores = (1 - weight) * latency_s / np.nanmin(latency_s) + weight * energy / max(np.nanmin(energy), 1e-12)
        allowed = grid.allowed()
        scores = np.where(allowed[:, 0, 0] & np.isfinite(scores), scores, np.inf)
        return grid.plan((_least(grid, scores, allowed), 0, 0), self.name)


@dataclass(frozen=True)
class Edge:
    """All on the edge."""

    name: str = "edge"

    def decide(self, problem: Problem) -> Plan:
        if problem.partners is not None:
            raise UsageError("the model of several edges goes on at the cloud: none of them can compute all of it")
        plain = replace(problem, codecs_up=("none",), codecs_down=("none",))  # whichever: no codec is in it
        return best(make_grid(plain), self.name, lambda grid: _places(grid, grid.local))


@dataclass(frozen=True)
class Cloud:
    """All on the cloud: the model's inputs travel, encoded as given."""

    codec_up: str = "none"
    name: str = "cloud"

    def decide(self, problem: Problem) -> Plan:
        if problem.edge_holds != "head":
            raise UsageError("where the edge has the tail, it has the targets as well: nothing can be all on the cloud")
        plain = replace(problem, codecs_up=(self.codec_up,))
        return best(make_grid(plain), self.name, lambda grid: _places(grid, [0]))


@dataclass(frozen=True)
class Fixed:
    """One plan, whatever the context."""

    cut: int | str
    """Index or name."""
    codec_up: str = "none"
    codec_down: str = "none"
    stale_it: int | None = 0
    """K; None takes the smallest that saturates."""
    name: str = "fixed"

    def decide(self, problem: Problem) -> Plan:
        edge = problem.edge
        known: list[object] = [*edge.cuts] if isinstance(self.cut, int) else [*edge.names]
        if self.cut not in known:
            raise UsageError(f"{edge.source} has no cut {self.cut!r}; {nearest(str(self.cut), map(str, known))}")
        place = known.index(self.cut)
        one = replace(problem, stale_it=self.stale_it, codecs_up=(self.codec_up,), codecs_down=(self.codec_down,))
        return best(make_grid(one), self.name, lambda grid: _places(grid, [place]))


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "ours": Ours,
    "jointdnn": JointDnn,
    "neurosurgeon": Neurosurgeon,
    "edge": Edge,
    "cloud": Cloud,
}
"""By name, those that need nothing more; `Fixed` needs a plan."""


def best(grid: Grid, strategy: str, among: Callable[[Grid], Bools] | None = None) -> Plan:
    """The candidate with the least score; of equal ones the first, so the smaller head and the plainer codec.

    Raises:
        UsageError: none is allowed.
    """
    scores, allowed = grid.scores(), grid.allowed()
    if among is not None:
        wanted = among(grid)
        scores, allowed = np.where(wanted, scores, np.inf), allowed & wanted
    place = _least(grid, scores, allowed, None if among is None else wanted)
    cut, up, down = (int(each) for each in np.unravel_index(place, scores.shape))
    return grid.plan((cut, up, down), strategy)


def _least(grid: Grid, scores: Floats, allowed: Bools, among: Bools | None = None) -> int:
    place = int(np.argmin(scores))
    if not np.isfinite(scores.flat[place]):
        raise UsageError(why_none(grid, np.ones_like(allowed) if among is None else among))
    return place


def why_none(grid: Grid, among: Bools) -> str:
    """Which limit rules out all candidates."""
    problem, known = grid.problem, among & np.isfinite(grid.step_s)
    if not known.any():
        return f"{problem.edge.source} and {problem.cloud.source} do not have the times of any plan that was asked for"
    if not (known & problem.edge.safe[:, None, None]).any():
        return "training must not be cut where it was asked for"
    limits, words = problem.limits, []
    if limits.edge_memory_bytes is not None:
        least = np.nanmin(np.where(known, grid.memory_bytes, np.nan))
        words.append(
            f"{limits.edge_memory_bytes / 2**20:.0f} MiB of memory on the edge (the least that any takes is "
            f"{least / 2**20:.0f} MiB)"
        )
    if limits.loss_points is not None:
        words.append(f"a loss of {limits.loss_points:g} points (pairs of codecs without a measured loss do not count)")
    return f"no plan is within {' and '.join(words)}"


def _places(grid: Grid, cuts: list[int]) -> Bools:
    wanted = np.zeros(grid.step_s.shape, dtype=np.bool_)
    wanted[cuts] = True
    return wanted
