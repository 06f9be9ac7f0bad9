"""The tail at the other end of a line."""

from collections import deque
from dataclasses import dataclass
from types import TracebackType

from common.errors import ProtocolError
from common.training.carrier import Saving, Tally, count_upload, decode_answer, encode_upload, turn
from common.training.duplex import Duplex
from common.training.exchange import Answer, Asked, Outgoing, Upload
from common.training.half import Half
from common.training.journal import Journal
from common.training.kept import Parts
from common.training.line import Line
from common.training.part_state import from_pieces
from common.wire.framing import Frame, pack
from common.wire.messages import Applied, Averaged, Bye, Checkpoint, Checkpointed, Finish, Finished, Moved, Outputs
from common.wire.tcp import Received, expect


@dataclass(frozen=True)
class _Encoded:
    """A frame that is ready to go."""

    parts: Parts


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
        head: Half,
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
        self._came, self._resumed = self.tally.answered, self.tally.sent
        self._line = line
        self._duplex: Duplex[Upload | Asked | Saving | Outgoing | _Encoded, Answer | Upload | Frame] = Duplex(
            line, self._encode, self._decode, queue_limit, most_under_way, Bye()
        )

    def __enter__(self) -> "Remote":
        self._duplex.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._duplex.__exit__(kind, error, trace)

    def submit(self, upload: Upload | Asked) -> None:
        """Hand the upload to the encoder."""
        count_upload(self.tally, self.head, upload)
        self._duplex.submit(upload)

    def collect(self) -> Answer | Upload:
        """The next decoded answer."""
        answer = self._duplex.collect()
        if not isinstance(answer, (Answer, Upload)):
            raise ProtocolError(f"the peer sent {type(answer.message).__name__} where gradients were due")
        self.tally.under_way.pop(0)
        return answer

    def reply(self, answer: Answer) -> None:
        """Encode it here, so that all of the step is counted when the step is done, and hand it to the line."""
        self.tally.count(answer=False)
        self._duplex.submit(_Encoded(encode_upload(self.head, answer, self._journal)))

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
        if isinstance(answer, (Answer, Upload)):
            raise ProtocolError("the peer sent the answer of a step that is not due")
        return answer

    def finish(self) -> dict[str, str]:
        """Tell the tail that the run is over; digests of its parameters and buffers."""
        return expect(self.exchange(Outgoing(Finish())), Finished).digests

    def _encode(self, item: Upload | Asked | Saving | Outgoing | _Encoded) -> Parts | None:
        if isinstance(item, _Encoded):
            return item.parts
        if isinstance(item, (Upload, Asked)):
            parts = encode_upload(self.head, item, self._journal)
            if isinstance(item, Asked) or not self.head.keeps_labels:
                return parts
            self._line.put(parts)
            turned = turn(self.head, item, self._duplex.aside.get(), self._journal)
            if isinstance(turned, Answer):
                self._duplex.deliver(turned)
                return None
            return turned
        if isinstance(item, Saving):
            item.writer.write(*self.head.finish(item.snapshot))
            if item.last:
                item.writer.settle()
            self._savings.append(item)
            return pack(Checkpoint(item.answered, copy=item.writer.wants_copy))
        return pack(item.message, item.buffers)

    def _decode(self, received: Received) -> Answer | Upload | Frame | None:
        message, number = received.frame.message, self._came
        self._came += 1
        if isinstance(message, Checkpointed):
            # There is none for the answer to a checkpoint that this run went on from.
            saving = self._savings.popleft() if self._savings else None
            if saving and saving.writer.wants_copy:
                saving.writer.copied(from_pieces(message.pieces, received.frame.buffers))
            return None
        if isinstance(message, Outputs):
            if number >= self._resumed:  # else it came before the checkpoint that this run goes on from, too
                self._duplex.aside.put(received)
            return None
        if isinstance(message, Applied):
            return None
        if isinstance(message, (Finished, Moved, Averaged)):
            return received.frame
        return decode_answer(self.head, received, self._journal)
