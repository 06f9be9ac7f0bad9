"""Stage times, memory and K of all candidates of a problem: arrays [C, U, D] over cuts and codecs of both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.planning import cost
from common.planning.cost import Floats
from common.planning.problem import Problem
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
        names_up: codecs of activations.
        names_down: codecs of gradients.
    """

    def __init__(self, problem: Problem, names_up: Sequence[str], names_down: Sequence[str]) -> None:
        self.problem = problem
        self._edge_has_head = problem.edge_holds == "head"
        self._head, self._tail = problem.edge, problem.cloud
        if not self._edge_has_head:
            self._head, self._tail = problem.cloud, problem.edge
        self._up = _coded(names_up, self._head.activations, self._tail.activations, axis=2)
        self._down = _coded(names_down, self._tail.gradients, self._head.gradients, axis=1)
        self.shape = (len(self._head.cuts), len(names_up), len(names_down))
        self.local = self.shape[0] - 1 if self._edge_has_head else 0

    @cached_property
    def resident(self) -> Floats:
        """Bytes that training the edge's part takes, whatever is under way: [C, 1, 1]."""
        edge = self.problem.edge
        peak = edge.head_peak_bytes if self._edge_has_head else edge.tail_peak_bytes
        known: Floats = peak[:, None, None]
        return known

    @cached_property
    def under_way(self) -> Floats:
        """Bytes of each step under way at the edge: a head keeps its inputs and what it sends, a tail both messages."""
        own = self.problem.edge.input_bytes if self._edge_has_head else self._down.nbytes
        taken: Floats = np.broadcast_to(self._up.nbytes + own, self.shape).copy()
        taken[self.local] = self.problem.edge.input_bytes
        return taken

    def stages(self, *, replays: bool) -> Floats:
        """[4, C, U, D]: times of edge, uplink, cloud and downlink."""
        head_s = self._head.head_s if replays else self._head.head_kept_s
        context, header = self.problem.context, self.problem.message_bytes
        forward_bps, backward_bps = context.up_bps, context.down_bps
        if not self._edge_has_head:
            forward_bps, backward_bps = backward_bps, forward_bps
        times: list[Floats] = [
            head_s[:, None, None] + self._up.encode_s + self._down.decode_s,
            (self._up.nbytes + header) * 8 / forward_bps,
            self._tail.tail_s[:, None, None] + self._up.decode_s + self._down.encode_s,
            (self._down.nbytes + header) * 8 / backward_bps,
        ]
        stages = np.empty((4, *self.shape))
        for row, each in zip(stages, times if self._edge_has_head else times[2:] + times[:2], strict=True):
            row[...] = each
        stages[:, self.local] = 0.0
        stages[0, self.local] = self._head.local_s if self._edge_has_head else self._tail.whole_s
        return stages


def choose_staleness(tables: Tables) -> Chosen:
    """All candidates, each at the K that the problem asks for, or at the smallest that saturates its slowest stage."""
    problem = tables.problem
    rtt_s = problem.context.rtt_ms / 1e3
    serial = tables.stages(replays=False)
    way_s = serial.sum(axis=0) + rtt_s
    way_s[tables.local] -= rtt_s  # no link is in it
    if problem.stale_it == 0:
        return Chosen(serial, np.zeros(tables.shape), way_s)
    stages = tables.stages(replays=True)
    slowest, pipelined_way_s = stages.max(axis=0), stages.sum(axis=0) + rtt_s
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
