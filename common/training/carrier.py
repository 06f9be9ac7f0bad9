"""What carries uploads to the tail and answers back: within one process, or over a connection.

Both go through the same codecs and the same frames, so an ablation in one process is valid for the real system.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from torch import Tensor

from common.errors import ProtocolError
from common.training.checkpoint import PendingStep
from common.training.duplex import Duplex
from common.training.exchange import Answer, Outgoing, Upload
from common.training.head import Head, HeadSnapshot
from common.training.journal import Journal
from common.training.line import Line, Parts
from common.training.part_state import State, from_pieces
from common.training.station import Station
from common.wire.framing import Frame, FrameReader, feed, frame_bytes, pack
from common.wire.messages import Averaged, Bye, Checkpoint, Checkpointed, Finish, Finished, Gradients, Moved
from common.wire.tcp import Received, expect


class Writer(Protocol):
    """Writes a checkpoint of the edge when its parts are there."""

    @property
    def wants_copy(self) -> bool:
        """Whether a copy of the tail is to come."""

    def write(self, tensors: dict[str, Tensor], pending: list[PendingStep]) -> None:
        """The head's state, and the steps under way."""

    def copied(self, tail: State) -> None:
        """A copy of the tail."""


@dataclass(frozen=True)
class Saving:
    """A checkpoint of the edge on its way behind the uploads before it."""

    snapshot: HeadSnapshot
    number: int
    """Frames sent by then, the request for the cloud's half included."""
    answered: int
    """Answers applied by then."""
    writer: Writer


class Carrier(Protocol):
    """Between a head and a tail. Answers come in the order of the uploads."""

    head: Head
    """What encodes uploads and decodes answers; another one may be put in its place when nothing is under way."""
    tally: "Tally"
    """Where in the session it is."""

    def submit(self, upload: Upload) -> None:
        """Take an upload; may wait until there is room."""

    def collect(self) -> Answer:
        """The next answer; waits for it."""

    def arrived(self) -> int:
        """Number of answers that `collect` would return at once."""

    def save(self, saving: Saving) -> None:
        """Let both sides keep what they are behind the uploads so far; does not wait for it."""

    def exchange(self, outgoing: Outgoing) -> Frame:
        """Send a message between two steps, with nothing under way, and wait for its answer."""

    def finish(self) -> dict[str, str]:
        """End the session when all uploads are answered; digests of the tail's parameters and buffers."""


@dataclass
class Tally:
    """Frames of a session, as the edge counts them."""

    sent: int = 0
    under_way: list[int] = field(default_factory=list)
    """Numbers of the uploads whose answers were not collected, ascending."""

    def count(self, *, answer: bool) -> None:
        """One more is sent; of those with an ``answer`` to collect it is remembered."""
        if answer:
            self.under_way.append(self.sent)
        self.sent += 1

    @property
    def answered(self) -> int:
        """Number of the first answer that was not collected."""
        return self.under_way[0] if self.under_way else self.sent

    def copy(self) -> "Tally":
        """As it is now."""
        return Tally(self.sent, list(self.under_way))


class InProcess:
    """Head and tail in one process: each upload is answered before `submit` returns.

    Args:
        head: encodes uploads and decodes answers.
        station: the other half.
        journal: takes the times and bytes of each step.
        tally: where the session goes on.
        answers: frames that were not collected there.
        counted: whether bytes count as sent; not where there is no link to send them over.
    """

    def __init__(
        self,
        head: Head,
        station: Station,
        journal: Journal,
        *,
        tally: Tally | None = None,
        answers: Sequence[Parts] = (),
        counted: bool = True,
    ) -> None:
        self.head = head
        self._station, self._journal = station, journal
        self.tally = tally or Tally()
        self._answers = deque(answers)
        self._counted = counted
        station.answers = self._kept

    def submit(self, upload: Upload) -> None:
        """Carry the upload to the tail, and its answer back."""
        self.tally.count(answer=True)
        self._answers.append(self._ask(encode_upload(self.head, upload, self._journal, counted=self._counted)))

    def collect(self) -> Answer:
        """The oldest answer."""
        self.tally.under_way.pop(0)
        received = _through_memory(self._answers.popleft())
        return decode_answer(self.head, received, self._journal, counted=self._counted)

    def arrived(self) -> int:
        """Number of answers not collected."""
        return len(self._answers)

    def save(self, saving: Saving) -> None:
        """Both halves."""
        self.tally.count(answer=False)
        saving.writer.write(*self.head.finish(saving.snapshot))
        self._ask(pack(Checkpoint(saving.answered)))

    def exchange(self, outgoing: Outgoing) -> Frame:
        """To the station and back."""
        self.tally.count(answer=False)
        return _through_memory(self._ask(pack(outgoing.message, outgoing.buffers))).frame

    def finish(self) -> dict[str, str]:
        """Digests of the tail."""
        return expect(self.exchange(Outgoing(Finish())), Finished).digests

    def _kept(self, number: int) -> list[Parts]:
        """All that were not collected; in one process nothing else is kept."""
        return list(self._answers) if number < self.tally.sent else []

    def _ask(self, parts: Parts) -> Parts:
        station = self._station
        return station.encode(station.act(station.decode(_through_memory(parts))))


class Remote:
    """The tail is at the other end of a line, which this owns; a context manager.

    Args:
        head: encodes uploads and decodes answers.
        line: of an open session.
        journal: takes the times and bytes of each step.
        queue_limit: how many items may wait between two threads.
        most_under_way: how many uploads may be submitted before their answers are collected.
        tally: where the session goes on.
    """

    def __init__(
        self,
        head: Head,
        line: Line,
        journal: Journal,
        *,
        queue_limit: int,
        most_under_way: int,
        tally: Tally | None = None,
    ) -> None:
        self.head = head
        self._journal = journal
        self.tally = tally or Tally()
        self._savings: deque[Saving] = deque()
        self._duplex: Duplex[Upload | Saving | Outgoing, Answer | Frame] = Duplex(
            line, self._encode, self._decode, queue_limit, most_under_way, Bye()
        )

    def __enter__(self) -> "Remote":
        self._duplex.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._duplex.__exit__(kind, error, trace)

    def submit(self, upload: Upload) -> None:
        """Hand the upload to the encoder."""
        self.tally.count(answer=True)
        self._duplex.submit(upload)

    def collect(self) -> Answer:
        """The next decoded answer."""
        answer = self._duplex.collect()
        if not isinstance(answer, Answer):
            raise ProtocolError(f"the peer sent {type(answer.message).__name__} where gradients were due")
        self.tally.under_way.pop(0)
        return answer

    def arrived(self) -> int:
        """Number of decoded answers that wait."""
        return self._duplex.arrived()

    def save(self, saving: Saving) -> None:
        """Hand the checkpoint to the encoder."""
        self.tally.count(answer=False)
        self._duplex.submit(saving)

    def exchange(self, outgoing: Outgoing) -> Frame:
        """Send a message and wait for its answer."""
        self.tally.count(answer=False)
        self._duplex.submit(outgoing)
        answer = self._duplex.collect()
        if isinstance(answer, Answer):
            raise ProtocolError("the peer sent gradients that are not due")
        return answer

    def finish(self) -> dict[str, str]:
        """Tell the tail that the run is over; digests of its parameters and buffers."""
        return expect(self.exchange(Outgoing(Finish())), Finished).digests

    def _encode(self, item: Upload | Saving | Outgoing) -> Parts:
        if isinstance(item, Upload):
            return encode_upload(self.head, item, self._journal)
        if isinstance(item, Saving):
            item.writer.write(*self.head.finish(item.snapshot))
            self._savings.append(item)
            return pack(Checkpoint(item.answered, copy=item.writer.wants_copy))
        return pack(item.message, item.buffers)

    def _decode(self, received: Received) -> Answer | Frame | None:
        message = received.frame.message
        if isinstance(message, Checkpointed):
            # There is none for the answer to a checkpoint that this run went on from.
            saving = self._savings.popleft() if self._savings else None
            if saving and saving.writer.wants_copy:
                saving.writer.copied(from_pieces(message.pieces, received.frame.buffers))
            return None
        if isinstance(message, (Finished, Moved, Averaged)):
            return received.frame
        return decode_answer(self.head, received, self._journal)


def encode_upload(head: Head, upload: Upload, journal: Journal, *, counted: bool = True) -> Parts:
    """The frame of an upload, with its bytes and its encoding counted."""
    head.codec_up.link_bps = journal.up_bps
    with journal.work("encode", upload.step, training=upload.training):
        outgoing = head.encode(upload)
        parts = pack(outgoing.message, outgoing.buffers)
    if upload.training and counted:
        journal.count(upload.step, up=frame_bytes(parts))
    return parts


def decode_answer(head: Head, received: Received, journal: Journal, *, counted: bool = True) -> Answer:
    """The answer in a frame, with its bytes, its decoding and what the tail says of the step counted."""
    message = received.frame.message
    if not isinstance(message, Gradients):
        raise ProtocolError(f"the peer sent {type(message).__name__} where gradients were due")
    with journal.work("decode", message.step, training=message.training):
        answer = head.decode(received.frame)
    journal.received(
        answer.step,
        received.started_s,
        received.seconds,
        received.frame.nbytes if counted else 0,
        training=answer.training,
        timed_bytes=received.timed_bytes,
    )
    journal.tail_worked(answer.step, answer.times, training=answer.training)
    return answer


def _through_memory(parts: Parts) -> Received:
    """A frame as it would come over a connection: in memory of its own."""
    reader = FrameReader()
    (frame,) = [frame for part in parts for frame in feed(reader, part)]
    return Received(frame, 0.0, 0.0)
