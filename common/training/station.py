"""The cloud's half of a session, without its connections: what comes up, what the tail makes of it, what goes down.

Three stages, which may each have a thread of their own: `decode`, `act`, `encode`. What is asked for between two steps
(a checkpoint, another cut) goes through the same stages in the order in which it came, so that each of them adds what
belongs to it, as it is behind the steps before.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import msgspec
import torch
from torch import Tensor, nn

from common.codec import Encoded
from common.errors import CodecError, PartitionError, ProtocolError, UsageError
from common.partition.graph import Graph
from common.partition.steps import state_of
from common.training.checkpoint import CheckpointStore, PendingStep, under
from common.training.cloud_head import CloudHead, TimedCloudHead
from common.training.ended import Latecomer
from common.training.exchange import AS_IT_IS, Answer, Asked, Forwarded, Returned, Upload
from common.training.joint import Seat
from common.training.kept import Parts
from common.training.moving import PARTIES_SHARE
from common.training.part_state import (
    State,
    copied,
    flat,
    from_pieces,
    only,
    only_values,
    put_mean,
    state_of_part,
    to_pieces,
)
from common.training.pending import HeadSnapshot, Pending
from common.training.tail import Tail
from common.training.timed import TimedTail
from common.wire.framing import pack
from common.wire.messages import (
    Average,
    Averaged,
    Bye,
    Checkpoint,
    Checkpointed,
    Finish,
    Finished,
    Move,
    Moved,
    OutputGradients,
    Outputs,
)
from common.wire.structs import Job, Payload, Piece
from common.wire.tcp import Received

CloudHalf: TypeAlias = Tail | CloudHead
"""What the cloud holds of the model: the tail of a job whose activations go up, else the head."""


class MakeTail(Protocol):
    """Makes the cloud's half of a job; see `common.training.directions.make_cloud_half`."""

    def __call__(self, job: Job, *, state: State | None = None) -> CloudHalf:
        """The half, with a state where it is not the model's first one."""


class _Timed(Protocol):
    """Carries steps through a half, and notes when it worked."""

    def decode(self, received: Received) -> Upload | Asked | Answer:
        """What a frame is about."""

    def act(self, item: Any) -> Answer | Upload | Forwarded:
        """Do it."""

    def turn(self, returned: Returned) -> Answer:
        """Go on from the loss's gradients of outputs."""

    def encode(self, item: Any) -> Parts:
        """The frame that answers."""

    def digests(self) -> dict[str, str]:
        """Of each parameter and buffer."""


class TailFacts(msgspec.Struct, frozen=True):
    """What is no tensor of a tail's checkpoint."""

    job: Job
    """With the cut of the moment."""
    key: bytes
    answered: int
    """Answers that the edge had applied."""
    next_step: int
    epoch: int
    pending: list[PendingStep] = []
    """Of a head: steps whose gradients had not come."""


@dataclass
class Snapshot:
    """A tail's checkpoint on its way through the stages."""

    number: int
    answered: int
    copy: bool
    order: tuple[int, int]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    state: State = field(default_factory=dict)
    under_way: dict[int, Pending] = field(default_factory=dict)


@dataclass(frozen=True)
class _Moving:
    message: Move
    buffers: tuple[memoryview, ...]


@dataclass(frozen=True)
class Averaging:
    """A head that waits for the mean with others."""

    head: State


Arrived: TypeAlias = Upload | Asked | Answer | Returned | Snapshot | _Moving | Averaging | Finish | Bye
Leaving: TypeAlias = Answer | Upload | Forwarded | Snapshot | tuple[Moved | Averaged, State] | Finished


class Station:
    """Holds the cloud's half of a model, mostly a tail, and replaces it when the cut moves.

    Args:
        graph: of the model; its weights are in the parts.
        job: what is trained.
        make: makes a tail of it.
        timer: see `common.training.timed.busy_timer`.
        store: where checkpoints go; None keeps none.
        answers: the answers that were encoded, from a number on.
        key: of the session.
        received: frames that came before.
        state: of the tail, where it is not the model's first one.
    """

    def __init__(
        self,
        graph: Graph,
        job: Job,
        make: MakeTail,
        timer: Callable[[], Callable[[], float]],
        *,
        store: CheckpointStore | None = None,
        answers: Callable[[int], list[Parts]] | None = None,
        key: bytes = b"",
        received: int = 0,
        state: State | None = None,
    ) -> None:
        self.job = job
        self._graph, self._make, self._timer = graph, make, timer
        self.store, self.answers, self._key = store, answers, key
        self._received = received
        self.tail = make(job, state=state)
        self._timed = _timed(self.tail, timer)
        self.allow: Callable[[Job], None] = _anything
        """Raises UsageError where a job, cut as the edge asks, is more than this side takes."""
        self.turns: AbstractContextManager[object] = nullcontext()
        """Held while it acts; a tail in common is one session's at a time."""
        self.together: Callable[[State, State], tuple[State, State, int]] | None = None
        """(head, tail) -> their means with those of other sessions, and of how many."""
        self.seat: Seat | Latecomer | None = None
        """At a tail that several parties share, each with a head of its own; what it does waits for the others."""

    def decode(self, received: Received) -> Arrived:
        """What a frame is about.

        Raises:
            ProtocolError: a message that is not due.
            JobRefused: a step of a run that has ended.
        """
        self._received += 1
        message = received.frame.message
        if isinstance(message, (Finish, Bye)):
            return message
        if isinstance(message, Checkpoint):
            tensors = {f"up/{name}": value.clone() for name, value in self.tail.codec_up.state().items()}
            return Snapshot(self._received, message.answered, message.copy, self.tail.order.state(), tensors)
        if isinstance(message, OutputGradients):
            return Returned(message.step, message.loss, message.correct, _one(message.payload, received))
        if isinstance(message, Move):
            return _Moving(message, received.frame.buffers)
        if isinstance(message, Average):
            return Averaging(_state(message.pieces, received.frame.buffers))
        if isinstance(self.seat, Latecomer):
            self.seat.refuse()
        return self._timed.decode(received)

    def act(self, item: Arrived) -> Leaving:
        """Do it."""
        if isinstance(item, (Upload, Asked, Answer, Returned)):
            return self._compute(item)
        if isinstance(item, Snapshot):
            item.state = copied(state_of_part(self.tail.part, self.tail.updater))
            if isinstance(self.tail, CloudHead):
                item.under_way = dict(self.tail.under_way)
            return item
        if isinstance(item, _Moving):
            return self._move(item)
        if isinstance(item, Averaging):
            return self._average(item)
        return Finished(self._timed.digests() if self.seat is None else self.seat.finish())

    def _compute(self, item: Upload | Asked | Answer | Returned) -> Leaving:
        if isinstance(item, (Upload, Returned)) and isinstance(self.seat, Seat):
            return self.seat.act(item)
        return self._timed.turn(item) if isinstance(item, Returned) else self._timed.act(item)

    def encode(self, item: Leaving) -> Parts:
        """The frame that answers."""
        if isinstance(item, (Answer, Upload)):
            return self._timed.encode(item)
        if isinstance(item, Forwarded):
            encoded = AS_IT_IS.encode([item.outputs], item.step)
            return pack(Outputs(item.step, item.training, encoded.spec, item.times), encoded.buffers)
        if isinstance(item, Snapshot):
            return self._keep(item)
        if isinstance(item, Finished):
            return pack(item)
        message, state = item
        pieces, buffers = to_pieces(state)
        return pack(msgspec.structs.replace(message, pieces=pieces), buffers)

    def load(self, tensors: dict[str, Tensor], facts: TailFacts) -> None:
        """Go on from a checkpoint; the half was made with its state already."""
        for codec, prefix in ((self.tail.codec_up, "up/"), (self.tail.codec_down, "down/")):
            codec.load_state({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self.tail.order.load_state((facts.next_step, facts.epoch))
        if isinstance(self.tail, CloudHead):
            self.tail.load_under_way(tensors, facts.pending)

    def _average(self, item: Averaging) -> tuple[Averaged, State]:
        """Wait for the other edges, and take the mean of all."""
        if self.together is None:
            raise ProtocolError("a mean is asked for, and this session has nothing in common with others")
        own = only_values(state_of_part(self.tail.part, self.tail.updater))
        try:
            head, tail, edges = self.together(item.head, copied(own))
        except (KeyError, RuntimeError) as error:
            raise ProtocolError(f"the head is another one than the others': {error}") from None
        put_mean(self.tail.part, tail)
        return Averaged(edges, ()), head

    def _keep(self, item: Snapshot) -> Parts:
        """Complete a checkpoint behind all answers before it, and begin to write it."""
        pieces, buffers = to_pieces(item.state) if item.copy else ((), ())
        parts = pack(Checkpointed(pieces), buffers)
        if self.store is not None and self.answers is not None:
            tensors = item.tensors | flat(item.state, "tail/")
            tensors |= {f"down/{name}": value.clone() for name, value in self.tail.codec_down.state().items()}
            under_way, pending = HeadSnapshot({}, item.under_way).written()
            tensors |= under_way
            for i, answer in enumerate([*self.answers(item.answered), parts]):
                joined = bytearray(b"".join(answer))
                tensors[f"answers/{item.answered + i}"] = torch.frombuffer(joined, dtype=torch.uint8)
            self.store.write(item.number, tensors, TailFacts(self.job, self._key, item.answered, *item.order, pending))
        return parts

    def _move(self, item: _Moving) -> tuple[Moved, State]:
        """Cut elsewhere, or encode otherwise; where that cannot be, all stays as it is, and the edge is told why."""
        message = item.message
        came = _state(message.pieces, item.buffers)
        if self.together is not None:
            return Moved(refusal="what several edges train together is not moved"), {}
        if self.seat is not None and message.cut != self.job.cut:
            return Moved(refusal=f"the cut stays behind {self.job.cut_name}: {PARTIES_SHARE}"), {}
        if self.seat is not None and came:
            raise ProtocolError("the state of blocks came, and the cut of a party does not move")
        job = msgspec.structs.replace(
            self.job,
            cut=message.cut,
            cut_name=message.cut_name,
            splits=-1,
            split_index=-1,
            compress_up=message.compress_up,
            compress_down=message.compress_down,
            stale_it=message.stale_it,
        )
        # Of a tail that parties share nothing leaves, and another one with it in common has it as it is.
        old = {} if self.seat is not None else state_of_part(self.tail.part, self.tail.updater)
        try:
            self._graph.require_trainable(job.cut)
            self.allow(job)
            names = state_of(cloud_part(self._graph, job)).keys()
            if foreign := sorted({name for name, _ in came} - names):
                raise ProtocolError(f"the state of {foreign[0]} came, which does not belong here at cut {job.cut}")
            tail = self._make(job, state={**only(old, names), **came})
        except (PartitionError, UsageError) as error:
            return Moved(refusal=str(error)), {}
        except ValueError as error:
            raise ProtocolError(f"the state of moving blocks does not fit: {error}") from None
        tail.order.load_state((message.step, message.epoch))
        leaving = only(old, {name for name, _ in old} - names)
        self.job, self.tail, self._timed = job, tail, _timed(tail, self._timer)
        return Moved(), leaving


def cloud_part(graph: Graph, job: Job) -> nn.Module:
    """The cloud's part of a model, bare."""
    head, tail = graph.parts(job.cut)
    return tail if job.direction == "up" else head


def _timed(half: CloudHalf, timer: Callable[[], Callable[[], float]]) -> _Timed:
    return TimedTail(half, timer) if isinstance(half, Tail) else TimedCloudHead(half, timer)


def _state(pieces: Sequence[Piece], buffers: Sequence[memoryview]) -> State:
    try:
        return from_pieces(pieces, buffers)
    except (CodecError, ValueError) as error:
        raise ProtocolError(f"the state of a part cannot be read: {error}") from None


def kept_answers(tensors: Mapping[str, Tensor]) -> list[Parts]:
    """The answers in a tail's checkpoint that its edge had not applied, oldest first; the last is that to itself."""
    answers = {int(number): value for number, value in under(tensors, "answers/").items()}
    return [[answers[number].numpy().data] for number in sorted(answers)]


def _one(payload: Payload, received: Received) -> Tensor:
    """The only tensor of a payload that no codec has touched."""
    if len(payload.tensors) != 1 or len(received.frame.buffers) != 1:
        raise ProtocolError(f"{len(payload.tensors)} tensors came where one was due")
    return AS_IT_IS.decode(Encoded(payload, received.frame.buffers))[0]


def _anything(job: Job) -> None:
    """Takes any job."""
