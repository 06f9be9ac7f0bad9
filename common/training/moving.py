"""What an edge does between two steps with nothing under way: move the cut, or take the mean with other edges."""

from typing import Protocol

import msgspec

from common.errors import PartitionError, UsageError
from common.partition.graph import Graph
from common.partition.points import CutPoint
from common.partition.steps import state_of
from common.training.carrier import Carrier
from common.training.exchange import Outgoing
from common.training.head import Head
from common.training.part_state import State, from_pieces, only, only_values, put_mean, state_of_part, to_pieces
from common.wire.messages import Average, Averaged, Job, Move, Moved
from common.wire.tcp import expect


class MakeHead(Protocol):
    """Makes the head of a job; see `common.training.prepare.make_head`."""

    def __call__(self, job: Job, *, state: State | None = None) -> Head:
        """The head, with a state where it is not the model's first one."""


def find_cut(graph: Graph, cut: str) -> CutPoint:
    """A cut point by name; where nothing has that name, a number is an index.

    (In a plain `nn.Sequential` numbers are names.)

    Raises:
        PartitionError: there is none.
    """
    try:
        return graph.find(cut)
    except PartitionError:
        if not cut.isdigit():
            raise
        return graph.find(int(cut))


def move_cut(
    head: Head, job: Job, graph: Graph, make_head: MakeHead, carrier: Carrier, cut: str
) -> tuple[Head, Job, int]:
    """Cut the model elsewhere: what changes sides goes with its weights, buffers and the optimizer's state of them.

    Args:
        head: of the job until now.
        job: what is trained.
        graph: of the model.
        make_head: makes a head of a job.
        carrier: to the tail.
        cut: where to.

    Returns:
        The head and the job from now on, and the bytes that went over.

    Raises:
        UsageError: there is no such cut, or training would be wrong there, or the cloud will not; all stays as it is.
    """
    try:
        point = find_cut(graph, cut)
        graph.require_trainable(point.index)
    except PartitionError as error:
        raise UsageError(f"the cut stays behind {job.cut_name}: {error}") from None
    names = state_of(graph.parts(point.index)[0]).keys()
    old = state_of_part(head.part, head.updater)
    pieces, buffers = to_pieces(only(old, {name for name, _ in old} - names))
    frame = carrier.exchange(Outgoing(Move(point.index, point.name, pieces), buffers))
    moved = expect(frame, Moved)
    if moved.refusal:
        raise UsageError(f"the cut stays behind {job.cut_name}: {moved.refusal}")
    state = {**only(old, names), **from_pieces(moved.pieces, frame.buffers)}
    job = msgspec.structs.replace(job, cut=point.index, cut_name=point.name, splits=-1, split_index=-1)
    return make_head(job, state=state), job, sum(len(each) for each in (*buffers, *frame.buffers))


def average_head(head: Head, carrier: Carrier) -> int:
    """Let the head's values become the mean of all edges' heads, which it waits for; the number of edges."""
    pieces, buffers = to_pieces(only_values(state_of_part(head.part, head.updater)))
    frame = carrier.exchange(Outgoing(Average(pieces), buffers))
    averaged = expect(frame, Averaged)
    put_mean(head.part, from_pieces(averaged.pieces, frame.buffers))
    return averaged.edges
