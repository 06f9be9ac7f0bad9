"""A run over a trace as arithmetic on instants: no process, no socket, no clock. See `benchmarks.policy`.

Edge, uplink, cloud and downlink are queues that take one step at a time. The edge sends a step behind its forward pass,
and begins the next one unless more than K gradients are missing; links carry what their trace has at that moment. What
the edge knows of its link comes from the project's own estimate and probes. Time 0 is where training begins.
"""

import heapq
from collections import deque
from dataclasses import dataclass

from common.link.trace import Trace
from common.planning.context import Direction, LinkEstimate
from common.planning.log import Context
from common.planning.plan import Plan
from common.planning.probes import SURVEY_S, Probes
from common.planning.problem import Problem

BEAT_S = 2.0
FORWARD_SHARE = 0.3
"""Of the edge's time for a step; what is left comes behind the gradient."""
OPENING_S = 1.0
"""From the end of the first look at the link to the first step: the session is opened."""


@dataclass(frozen=True)
class Work:
    """What a step of a plan takes, whatever the link."""

    edge_s: float
    cloud_s: float
    up_bytes: float
    down_bytes: float
    stale_it: int
    local: bool
    state_bytes: float
    """Of the edge's part with its optimizer: the difference moves with the cut."""

    @classmethod
    def of(cls, plan: Plan, problem: Problem) -> "Work":
        """That of a plan, by the profiles."""
        edge, stages = problem.edge, plan.prediction.stages_s
        place = edge.cuts.index(plan.cut)
        state_bytes = float(edge.state_bytes[place])
        if plan.local:
            return cls(stages.edge, 0.0, 0.0, 0.0, 0, True, state_bytes)
        up_bytes = float(edge.activations[plan.codec_up].nbytes[place]) + problem.message_bytes
        down_bytes = float(edge.gradients[plan.codec_down].nbytes[place]) + problem.message_bytes
        return cls(stages.edge, stages.cloud, up_bytes, down_bytes, plan.stale_it, False, state_bytes)


class Lane:
    """A direction of a link that replays a trace, which is at a phase at time 0."""

    def __init__(self, trace: Trace, phase_s: float) -> None:
        self._trace = trace
        self._zero_s = phase_s % trace.duration_s + trace.duration_s  # there is a round before time 0
        self._free_s = -trace.duration_s

    def send(self, at_s: float, nbytes: float) -> tuple[float, float]:
        """When bytes that are ready at an instant begin and end to leave."""
        begun_s = max(at_s, self._free_s)
        self._free_s = self._trace.finish_s(self._zero_s + begun_s, nbytes) - self._zero_s
        return begun_s, self._free_s

    def mean_bps(self, at_s: float, seconds: float) -> float:
        """What it carries behind an instant."""
        start_s = self._zero_s + at_s
        return 8 * (self._trace.carried(start_s + seconds) - self._trace.carried(start_s)) / seconds


class LinkView:
    """A link, and what the edge knows of it."""

    def __init__(self, up: Lane, down: Lane, rtt_s: float) -> None:
        self.lanes: dict[Direction, Lane] = {"up": up, "down": down}
        self.rtt_s = rtt_s
        self.estimate = LinkEstimate()
        begun_s = -SURVEY_S - OPENING_S
        self._probes = {way: Probes(self.estimate.rates[way], begun_s) for way in self.lanes}
        self._told: list[tuple[float, Direction, int, float]] = []
        self._moved = dict.fromkeys(self.lanes, 0.0)
        self._beat_s = BEAT_S

    def survey(self) -> Context:
        """Look at the link before the run, as `common.training.probing.measure_link` does."""
        now_s, end_s = -SURVEY_S - OPENING_S, -OPENING_S
        while now_s < end_s:
            looked_s = now_s
            self.estimate.answered(self.rtt_s, now_s + self.rtt_s)
            now_s += self.rtt_s
            for way in self.lanes:  # a ping's body, then its answer's
                now_s = self._probe(way, now_s, self._probes[way].survey())
            now_s += max(min(now_s - looked_s, end_s - now_s), 0.0)
        return self.estimate.context(now_s)

    def transfer(self, way: Direction, at_s: float, nbytes: float) -> float:
        """Send a message of training; when its last byte has come."""
        begun_s, ended_s = self.lanes[way].send(at_s, nbytes)
        self._moved[way] += nbytes
        came_s = ended_s + self.rtt_s / 2
        heapq.heappush(self._told, (came_s, way, int(nbytes), ended_s - begun_s))
        return came_s

    def at(self, now_s: float) -> Context:
        """The link as the edge knows it at an instant; the probes that are due by then have been sent."""
        while self._beat_s <= now_s:
            self._hear(self._beat_s)
            for way in self.lanes:
                moved, self._moved[way] = self._moved[way], 0.0
                if nbytes := self._probes[way].due(self._beat_s, int(moved)):
                    self._probe(way, self._beat_s, nbytes)
            self._beat_s += BEAT_S
        self._hear(now_s)
        self.estimate.answered(self.rtt_s, now_s)
        return self.estimate.context(now_s)

    def _hear(self, now_s: float) -> None:
        while self._told and self._told[0][0] <= now_s:
            came_s, way, nbytes, seconds = heapq.heappop(self._told)
            self.estimate.transferred(way, nbytes, seconds, came_s)

    def _probe(self, way: Direction, at_s: float, nbytes: int) -> float:
        begun_s, ended_s = self.lanes[way].send(at_s, nbytes)
        came_s, seconds = ended_s + self.rtt_s / 2, ended_s - begun_s
        told = self.estimate.transferred(way, nbytes, seconds, came_s, probe=True)
        self._probes[way].came(nbytes, 8 * nbytes / seconds if told else 0.0, came_s)
        return came_s


class Pipeline:
    """Steps, one behind the other, under a plan that may be changed between two of them."""

    def __init__(self, view: LinkView, work: Work) -> None:
        self._view, self.work = view, work
        self.now_s = 0.0
        self._cloud_free_s = 0.0
        self._due: deque[float] = deque()

    def step(self) -> None:
        """A forward pass, behind the gradients that it must not be without."""
        work, view = self.work, self._view
        if work.local:
            self.now_s += work.edge_s
            return
        while len(self._due) > work.stale_it:
            self._apply()
        self.now_s += FORWARD_SHARE * work.edge_s
        arrived_s = view.transfer("up", self.now_s, work.up_bytes)
        self._cloud_free_s = max(arrived_s, self._cloud_free_s) + work.cloud_s
        self._due.append(view.transfer("down", self._cloud_free_s, work.down_bytes))

    def drain(self) -> None:
        """Apply all gradients."""
        while self._due:
            self._apply()

    def change(self, work: Work) -> None:
        """Follow another plan: with nothing under way, and behind the state that moves with the cut."""
        self.drain()
        moved = work.state_bytes - self.work.state_bytes
        self.now_s += self._view.rtt_s
        if moved:
            self.now_s = self._view.transfer("down" if moved > 0 else "up", self.now_s, abs(moved))
        self.work = work

    def _apply(self) -> None:
        self.now_s = max(self.now_s, self._due.popleft()) + (1 - FORWARD_SHARE) * self.work.edge_s
