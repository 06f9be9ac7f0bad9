"""What carries uploads to the tail and answers back: within one process, or over a connection.

Both go through the same codecs and the same frames, so an ablation in one process is valid for the real system.
"""

from collections import deque
from types import TracebackType
from typing import Protocol

from common.errors import ProtocolError
from common.training.duplex import Duplex
from common.training.exchange import Answer, Upload
from common.training.head import Head
from common.training.journal import Journal
from common.training.timed import TimedTail
from common.wire.framing import Buffer, FrameReader, feed, frame_bytes, pack
from common.wire.messages import Finish, Finished, Gradients
from common.wire.tcp import Connection, Received


class Carrier(Protocol):
    """Between a head and a tail. Answers come in the order of the uploads."""

    def submit(self, upload: Upload) -> None:
        """Take an upload; may wait until there is room."""

    def collect(self) -> Answer:
        """The next answer; waits for it."""

    def arrived(self) -> int:
        """Number of answers that `collect` would return at once."""

    def finish(self) -> dict[str, str]:
        """End the session when all uploads are answered; digests of the tail's parameters and buffers."""


class InProcess:
    """Head and tail in one process: each upload is answered before `submit` returns."""

    def __init__(self, head: Head, tail: TimedTail, journal: Journal) -> None:
        self._head, self._tail, self._journal = head, tail, journal
        self._answers: deque[Answer] = deque()

    def submit(self, upload: Upload) -> None:
        """Carry the upload to the tail and its answer back."""
        arrived = _through_memory(encode_upload(self._head, upload, self._journal))
        answer = self._tail.step(self._tail.decode(arrived))
        returned = _through_memory(self._tail.encode(answer))
        self._answers.append(decode_answer(self._head, returned, self._journal))

    def collect(self) -> Answer:
        """The oldest answer."""
        return self._answers.popleft()

    def arrived(self) -> int:
        """Number of answers not collected."""
        return len(self._answers)

    def finish(self) -> dict[str, str]:
        """Digests of the tail."""
        return self._tail.digests()


class Remote:
    """The tail is at the other end of a connection, which this owns; a context manager.

    Args:
        head: encodes uploads and decodes answers.
        connection: attached to a session.
        journal: takes the times and bytes of each step.
        queue_limit: how many items may wait between two threads.
        most_under_way: how many uploads may be submitted before their answers are collected.
    """

    def __init__(
        self, head: Head, connection: Connection, journal: Journal, *, queue_limit: int, most_under_way: int
    ) -> None:
        self._head, self._journal = head, journal
        self._duplex: Duplex[Upload | Finish, Answer | Finished] = Duplex(
            connection, self._encode, self._decode, queue_limit, most_under_way
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
        self._duplex.submit(upload)

    def collect(self) -> Answer:
        """The next decoded answer."""
        answer = self._duplex.collect()
        if not isinstance(answer, Answer):
            raise ProtocolError("the peer sent 'finished' before this side did")
        return answer

    def arrived(self) -> int:
        """Number of decoded answers that wait."""
        return self._duplex.arrived()

    def finish(self) -> dict[str, str]:
        """Tell the tail that the run is over; digests of its parameters and buffers."""
        self._duplex.submit(Finish())
        finished = self._duplex.collect()
        if not isinstance(finished, Finished):
            raise ProtocolError("the peer sent another answer where 'finished' was due")
        return finished.digests

    def _encode(self, item: Upload | Finish) -> list[Buffer]:
        if isinstance(item, Finish):
            return pack(item)
        return encode_upload(self._head, item, self._journal)

    def _decode(self, received: Received) -> Answer | Finished:
        if isinstance(received.frame.message, Finished):
            return received.frame.message
        return decode_answer(self._head, received, self._journal)


def encode_upload(head: Head, upload: Upload, journal: Journal) -> list[Buffer]:
    """The frame of an upload, with its bytes and its encoding counted."""
    with journal.work("encode", upload.step, training=upload.training):
        outgoing = head.encode(upload)
        parts = pack(outgoing.message, outgoing.buffers)
    if upload.training:
        journal.count(upload.step, up=frame_bytes(parts))
    return parts


def decode_answer(head: Head, received: Received, journal: Journal) -> Answer:
    """The answer in a frame, with its bytes, its decoding and what the tail says of the step counted."""
    message = received.frame.message
    if not isinstance(message, Gradients):
        raise ProtocolError(f"the peer sent {type(message).__name__} where gradients were due")
    with journal.work("decode", message.step, training=message.training):
        answer = head.decode(received.frame)
    journal.received(answer.step, received.started_s, received.seconds, received.frame.nbytes, training=answer.training)
    journal.tail_worked(answer.step, answer.times, training=answer.training)
    return answer


def _through_memory(parts: list[Buffer]) -> Received:
    """A frame as it would come over a connection: in memory of its own."""
    reader = FrameReader()
    (frame,) = [frame for part in parts for frame in feed(reader, part)]
    return Received(frame, 0.0, 0.0)
