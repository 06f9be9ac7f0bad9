"""What carries uploads to the tail and answers back: within one process (`in_process`), or over a line (`remote_tail`).

Both go through the same codecs and the same frames, so an ablation in one process is valid for the real system.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from common.errors import ProtocolError
from common.training.checkpoint import PendingStep
from common.training.exchange import Answer, Asked, Outgoing, Upload
from common.training.half import Half
from common.training.journal import Journal
from common.training.kept import Parts
from common.training.part_state import State
from common.training.pending import HeadSnapshot
from common.wire.framing import Frame, frame_bytes, pack
from common.wire.messages import Activations, Gradients
from common.wire.tcp import Received


class Writer(Protocol):
    """Writes a checkpoint of the edge when its parts are there."""

    @property
    def wants_copy(self) -> bool:
        """Whether a copy of the tail is to come."""

    def write(self, tensors: dict[str, Tensor], pending: list[PendingStep]) -> None:
        """The head's state, and the steps under way."""

    def copied(self, tail: State) -> None:
        """A copy of the tail."""

    def settle(self) -> None:
        """Wait until what was written is on disk."""


@dataclass(frozen=True)
class Saving:
    """A checkpoint of the edge on its way behind the uploads before it."""

    snapshot: HeadSnapshot
    number: int
    """Frames sent by then, the request for the cloud's half included."""
    answered: int
    """Answers applied by then."""
    writer: Writer
    last: bool = False
    """Whether nothing may be sent behind it before it is on disk."""


class Carrier(Protocol):
    """Between the edge's half and the cloud's. Answers come in the order of the uploads.

    What is uploaded and what answers is the half's: a head's activations and their gradients, or inputs and their
    activations, which a tail at the edge replies to with gradients.
    """

    head: Half
    """What encodes uploads and decodes answers; another one may be put in its place when nothing is under way."""
    tally: "Tally"
    """Where in the session it is."""

    def submit(self, upload: Any) -> None:
        """Take an upload; may wait until there is room."""

    def collect(self) -> Any:
        """The next answer; waits for it."""

    def reply(self, answer: Answer) -> None:
        """Take what goes back of a half that replies; it is acted on behind all that was submitted before."""

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


def turn(head: Half, upload: Upload, received: Received, journal: Journal, *, counted: bool = True) -> Parts | Answer:
    """Where the labels stay at the edge: the frame of the loss's gradients, or in an evaluation the answer itself."""
    with journal.work("loss", upload.step, training=upload.training):
        turned = head.turn(upload, received.frame)
        parts = None if isinstance(turned, Answer) else pack(turned.message, turned.buffers)
    if parts is not None and counted:
        journal.count(upload.step, up=frame_bytes(parts), down=received.frame.nbytes)
    return turned if isinstance(turned, Answer) else parts or []


def count_upload(tally: Tally, head: Half, upload: Upload | Asked) -> None:
    """Count the frames of an upload: two in training, where the labels stay at the edge."""
    if head.keeps_labels and upload.training:
        tally.count(answer=False)
    tally.count(answer=True)


def encode_upload(head: Half, upload: Upload | Asked | Answer, journal: Journal, *, counted: bool = True) -> Parts:
    """The frame of an upload, or of a reply, with its bytes and its encoding counted."""
    head.codec_up.link_bps = journal.up_bps
    with journal.work("encode", upload.step, training=upload.training):
        outgoing = head.encode(upload)
        parts = pack(outgoing.message, outgoing.buffers)
    if upload.training and counted:
        journal.count(upload.step, up=frame_bytes(parts))
    if isinstance(upload, Upload) and upload.training and upload.recalled:
        journal.recalled(upload.step)
    return parts


def decode_answer(head: Half, received: Received, journal: Journal, *, counted: bool = True) -> Answer | Upload:
    """The answer in a frame, with its bytes, its decoding and what the cloud says of the step counted."""
    message = received.frame.message
    if not isinstance(message, (Gradients, Activations)):
        raise ProtocolError(f"the peer sent {type(message).__name__} where gradients were due")
    with journal.work("decode", message.step, training=message.training):
        answer: Answer | Upload = head.decode(received.frame)
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
