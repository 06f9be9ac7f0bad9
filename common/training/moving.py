"""What an edge does between two steps with nothing under way: move the cut, or take the mean with other edges."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from common.codec import make_codec
from common.errors import PartitionError, UsageError
from common.partition.graph import Graph
from common.partition.points import CutPoint
from common.partition.steps import state_of
from common.training.carrier import Carrier
from common.training.exchange import Outgoing
from common.training.half import Half
from common.training.part_state import State, from_pieces, only, only_values, put_mean, state_of_part, to_pieces
from common.wire.messages import Average, Averaged, Move, Moved
from common.wire.structs import Job
from common.wire.tcp import expect


class MakeHead(Protocol):
    """Makes the edge's half of a job; see `common.training.directions.make_edge_half`."""

    def __call__(self, job: Job, *, state: State | None = None) -> Half:
        """The half, with a state where it is not the model's first one."""


def find_cut(graph: Graph, cut: str | int) -> CutPoint:
    """A cut point by name; where nothing has that name, a number is an index.

    (In a plain `nn.Sequential` numbers are names.)

    Raises:
        PartitionError: there is none.
    """
    try:
        return graph.find(cut)
    except PartitionError:
        if isinstance(cut, int) or not cut.isdigit():
            raise
        return graph.find(int(cut))


PARTIES_SHARE = "what is behind it is trained with the other parties; codecs and K can change"
"""Why the cut of one of several parties does not move."""
_PLANNED = ("cut", "compress_up", "compress_down", "stale_it")


@dataclass(frozen=True)
class Change:
    """What of a plan is to be another; None leaves it."""

    cut: str | int | None = None
    compress_up: str | None = None
    compress_down: str | None = None
    stale_it: int | None = None

    def differs(self, job: Job, graph: Graph) -> bool:
        """Whether a job is another one after the change."""
        after = self.of(job, graph)
        return any(getattr(after, name) != getattr(job, name) for name in _PLANNED)

    def of(self, job: Job, graph: Graph) -> Job:
        """The job after the change.

        Raises:
            UsageError: there is no such cut or codec, or training would be wrong there.
        """
        changes: dict[str, Any] = {
            name: value
            for name in ("compress_up", "compress_down", "stale_it")
            if (value := getattr(self, name)) is not None
        }
        if self.stale_it is not None and self.stale_it < 0:
            raise UsageError(f"K is {self.stale_it}; it must be 0 or more")
        after = msgspec.structs.replace(job, **changes)
        make_codec(after.activations_codec, "up")
        make_codec(after.gradients_codec, "down")
        if self.cut is not None:
            if job.gradients == "local":
                raise UsageError(
                    f"the cut stays behind {job.cut_name}: the classifier of --gradients local is of this cut alone; "
                    "train with --gradients cloud to move it"
                )
            try:
                point = find_cut(graph, self.cut)
                graph.require_trainable(point.index)
            except PartitionError as error:
                raise UsageError(f"the cut stays behind {job.cut_name}: {error}") from None
            if job.parties and point.index != job.cut:
                raise UsageError(f"the cut stays behind {job.cut_name}: {PARTIES_SHARE}")
            changes |= {"cut": point.index, "cut_name": point.name, "splits": -1, "split_index": -1}
        return msgspec.structs.replace(job, **changes)


def change_plan(
    head: Half, job: Job, graph: Graph, make_head: MakeHead, carrier: Carrier, at: tuple[int, int]
) -> tuple[Half, int]:
    """Train by another plan: what changes sides goes with its weights, buffers and the optimizer's state of them.

    Args:
        head: of the job until now.
        job: from now on.
        graph: of the model.
        make_head: makes a head of a job.
        carrier: to the tail.
        at: the step that is due next, and its epoch.

    Returns:
        The head from now on, and the bytes that went over.

    Raises:
        UsageError: the cloud will not; all stays as it is.
    """
    names = state_of(graph.parts(job.cut)[0 if job.direction == "up" else 1]).keys()
    old = state_of_part(head.part, head.updater)
    leaving = only(old, {name for name, _ in old} - names)
    arrived, nbytes = _exchange(job, carrier, leaving, at)
    return make_head(job, state={**only(old, names), **arrived, **head.auxiliary_state()}), nbytes


def hand_back(job: Job, carrier: Carrier, tail: State, at: tuple[int, int]) -> None:
    """Give a new session's cloud the tail that the edge has trained alone.

    Raises:
        UsageError: the cloud will not have it.
    """
    _exchange(job, carrier, tail, at)


def _exchange(job: Job, carrier: Carrier, leaving: State, at: tuple[int, int]) -> tuple[State, int]:
    """Tell the cloud the plan of a job, with what goes there; what comes back, and the bytes of both."""
    pieces, buffers = to_pieces(leaving)
    move = Move(job.cut, job.cut_name, job.compress_up, job.compress_down, job.stale_it, *at, pieces)
    frame = carrier.exchange(Outgoing(move, buffers))
    moved = expect(frame, Moved)
    if moved.refusal:
        raise UsageError(f"the server goes on by the plan that it has: {moved.refusal}")
    return from_pieces(moved.pieces, frame.buffers), sum(len(each) for each in (*buffers, *frame.buffers))


def average_head(head: Half, carrier: Carrier) -> int:
    """Let the head's values become the mean of all edges' heads, which it waits for; the number of edges."""
    pieces, buffers = to_pieces(only_values(state_of_part(head.part, head.updater)))
    frame = carrier.exchange(Outgoing(Average(pieces), buffers))
    averaged = expect(frame, Averaged)
    put_mean(head.part, from_pieces(averaged.pieces, frame.buffers))
    return averaged.edges
