"""Stage times, memory and K of all candidates of a problem: arrays [C, U, D] over cuts and codecs of both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.planning import cost
from common.planning.cost import Floats
from common.planning.problem import Partners, Problem
from common.profiling.profile import CodecCost


@dataclass(frozen=True)
class Coded:
    """Codecs of one way, by cut and codec; their axes stand where those of a candidate do."""

    nbytes: Floats
    encode_s: Floats
    decode_s: Floats


@dataclass(frozen=True)
class Chosen:
    """Candidates at some K each."""

    stages_s: Floats
    """[4, C, U, D]: edge, uplink, cloud, downlink."""
    stale_it: Floats
    step_s: Floats


class Tables:
    """What a problem's two profiles say of each candidate.

    Args:
        problem: the problem.
        names_up: codecs of what goes up.
        names_down: codecs of what comes down.
    """

    def __init__(self, problem: Problem, names_up: Sequence[str], names_down: Sequence[str]) -> None:
        self.problem = problem
        edge, cloud = problem.edge, problem.cloud
        self._edge_has_head = problem.edge_holds == "head"
        if self._edge_has_head:
            self._up = _coded(names_up, edge.activations, cloud.activations, axis=2)
            self._down = _coded(names_down, cloud.gradients, edge.gradients, axis=1)
        else:
            self._up = _coded(names_up, edge.gradients, cloud.gradients, axis=2)
            self._down = _coded(names_down, cloud.activations, edge.activations, axis=1)
        self.shape = (len(edge.cuts), len(names_up), len(names_down))
        self.local = problem.local

    @cached_property
    def resident(self) -> Floats:
        """Bytes that training the edge's part takes, whatever is under way: [C, 1, 1]."""
        edge = self.problem.edge
        peak = edge.head_peak_bytes if self._edge_has_head else edge.tail_peak_bytes
        known: Floats = peak[:, None, None]
        return known

    @cached_property
    def under_way(self) -> Floats:
        """Bytes of each step under way at the edge.

        A head keeps its inputs and what it sends; a tail both messages, and what its loss compares with.
        """
        inputs, targets = self.problem.edge.input_bytes, self.problem.target_bytes
        own = inputs if self._edge_has_head else self._down.nbytes + targets
        taken: Floats = np.broadcast_to(self._up.nbytes + own, self.shape).copy()
        taken[self.local] = inputs + targets
        return taken

    def stages(self, *, replays: bool) -> Floats:
        """[4, C, U, D]: times of edge, uplink, cloud and downlink."""
        problem = self.problem
        context, header = problem.context, problem.message_bytes
        edge_s, cloud_s = problem.edge.tail_s, problem.cloud.tail_s
        if self._edge_has_head:
            edge_s = problem.edge.head_s if replays else problem.edge.head_kept_s
        else:
            cloud_s = problem.cloud.head_s if replays else problem.cloud.head_kept_s
        stages = np.empty((4, *self.shape))
        stages[0] = edge_s[:, None, None] + self._up.encode_s + self._down.decode_s
        stages[1] = (self._up.nbytes + self._asked_bytes + header) * 8 / context.up_bps
        stages[2] = cloud_s[:, None, None] + self._up.decode_s + self._down.encode_s
        stages[3] = (self._down.nbytes + header) * 8 / context.down_bps
        stages[:, self.local] = 0.0
        stages[0, self.local] = problem.edge.local_s if self._edge_has_head else problem.edge.whole_s
        return stages

    @property
    def _asked_bytes(self) -> float:
        """What an edge with the tail sends to ask for activations, besides gradients: the model's inputs."""
        inputs = self.problem.edge.input_bytes
        return 0.0 if self._edge_has_head or np.isnan(inputs) else inputs  # published tables do not have them


def choose_staleness(tables: Tables) -> Chosen:
    """All candidates, each at the K that the problem asks for, or at the smallest that saturates its slowest stage."""
    problem = tables.problem
    rtt_s = problem.context.rtt_ms / 1e3
    partners = problem.partners or Partners()
    serial = tables.stages(replays=False)
    way_s = serial.sum(axis=0) + rtt_s + partners.turn_s
    way_s[tables.local] -= rtt_s  # no link is in it
    way_s = np.maximum(way_s, partners.step_s)
    if problem.stale_it == 0:
        return Chosen(serial, np.zeros(tables.shape), way_s)
    stages = tables.stages(replays=True)
    slowest, pipelined_way_s = stages.max(axis=0), stages.sum(axis=0) + rtt_s + partners.turn_s
    if partners.turns_here:
        slowest = np.maximum(slowest, stages[1] + stages[2] + partners.turn_s)
    slowest = np.maximum(slowest, partners.step_s)
    if problem.stale_it is not None:
        stale_it = np.full(tables.shape, float(problem.stale_it))
    else:
        stale_it = np.clip(cost.sufficient_staleness(slowest, pipelined_way_s), 1.0, float(problem.max_stale_it))
        budget = problem.limits.edge_memory_bytes
        if budget is not None:
            stale_it = np.minimum(stale_it, cost.staleness_that_fits(tables.resident, tables.under_way, budget))
    step_s = cost.step_times(slowest, pipelined_way_s, np.maximum(stale_it, 0.0))
    better = (stale_it >= 1) & ((step_s < way_s) | np.isnan(way_s))
    if problem.stale_it is not None:
        better[:] = True
    better[tables.local] = False
    return Chosen(np.where(better, stages, serial), np.where(better, stale_it, 0.0), np.where(better, step_s, way_s))


def _coded(
    names: Sequence[str], sender: Mapping[str, CodecCost], receiver: Mapping[str, CodecCost], *, axis: int
) -> Coded:
    """The sender's encoding and the receiver's decoding; ``axis`` is the one that these codecs do not have."""
    tables = (
        [sender[name].nbytes for name in names],
        [sender[name].encode_s for name in names],
        [receiver[name].decode_s for name in names],
    )
    return Coded(*(np.expand_dims(np.stack(each, axis=1), axis) for each in tables))
