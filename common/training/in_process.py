"""Head and tail in one process: an ablation there is valid for the real system."""

from collections import deque
from collections.abc import Sequence

from common.training.carrier import Saving, Tally, count_upload, decode_answer, encode_upload, turn
from common.training.exchange import Answer, Asked, Outgoing, Upload
from common.training.half import Half
from common.training.journal import Journal
from common.training.kept import Parts
from common.training.station import Station
from common.wire.framing import Frame, FrameReader, feed, pack
from common.wire.messages import Checkpoint, Finish, Finished
from common.wire.tcp import Received, expect


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
        head: Half,
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
        self._answers: deque[Parts | Answer] = deque(answers)
        self._counted = counted
        station.answers = self._kept

    def submit(self, upload: Upload | Asked) -> None:
        """Carry the upload to the tail, and its answer back."""
        count_upload(self.tally, self.head, upload)
        answer: Parts | Answer = self._ask(encode_upload(self.head, upload, self._journal, counted=self._counted))
        if self.head.keeps_labels and isinstance(upload, Upload) and not isinstance(answer, Answer):
            answer = turn(self.head, upload, through_memory(answer), self._journal, counted=self._counted)
            answer = answer if isinstance(answer, Answer) else self._ask(answer)
        self._answers.append(answer)

    def collect(self) -> Answer | Upload:
        """The oldest answer."""
        self.tally.under_way.pop(0)
        answer = self._answers.popleft()
        if isinstance(answer, Answer):
            return answer
        received = through_memory(answer)
        return decode_answer(self.head, received, self._journal, counted=self._counted)

    def reply(self, answer: Answer) -> None:
        """Carry it to the other half, which has nothing more to say of the step."""
        self.tally.count(answer=False)
        self._ask(encode_upload(self.head, answer, self._journal, counted=self._counted))

    def arrived(self) -> int:
        """Number of answers not collected."""
        return len(self._answers)

    def save(self, saving: Saving) -> None:
        """Both halves."""
        self.tally.count(answer=False)
        saving.writer.write(*self.head.finish(saving.snapshot))
        if saving.last:
            saving.writer.settle()
        self._ask(pack(Checkpoint(saving.answered)))

    def exchange(self, outgoing: Outgoing) -> Frame:
        """To the station and back."""
        self.tally.count(answer=False)
        return through_memory(self._ask(pack(outgoing.message, outgoing.buffers))).frame

    def finish(self) -> dict[str, str]:
        """Digests of the tail."""
        return expect(self.exchange(Outgoing(Finish())), Finished).digests

    def _kept(self, number: int) -> list[Parts]:
        """All that were not collected; in one process nothing else is kept."""
        return [each for each in self._answers if not isinstance(each, Answer)] if number < self.tally.sent else []

    def _ask(self, parts: Parts) -> Parts:
        station = self._station
        return station.encode(station.act(station.decode(through_memory(parts))))


def through_memory(parts: Parts) -> Received:
    """A frame as it would come over a connection: in memory of its own."""
    reader = FrameReader()
    (frame,) = [frame for part in parts for frame in feed(reader, part)]
    return Received(frame, 0.0, 0.0)
