"""Fuzzes the frame reader, the messages and all that decodes them, in this process."""

import random
import resource
from collections import Counter
from dataclasses import dataclass, field

from common.errors import TandemError
from common.training.session import AnswerOrder, StepOrder, check_open
from common.wire.framing import Frame, FrameReader, Limits, feed
from common.wire.messages import Activations, Gradients, Open
from tests.fuzz.mutate import Seed, hostile
from tests.fuzz.small import Setting, carried, session_frames, settings, upload

LIMITS = Limits(header_bytes=1 << 16, body_bytes=1 << 17, buffers=256)


@dataclass
class Tally:
    """What became of the frames."""

    frames: int = 0
    nbytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class Decoders:
    """A head and a tail that take any frame, as if it came at the right moment."""

    def __init__(self, setting: Setting) -> None:
        self._head, self._tail = setting.head(), setting.tail()
        carried(upload(self._head, 0))  # from here on an answer to step 0 is due
        self.seeds = [Seed.of(*each) for each in session_frames(setting)]

    def take(self, frame: Frame, *, deep: bool) -> str:
        """Do with a frame what a session does with it; the name of what became of it."""
        message = frame.message
        if isinstance(message, Activations):
            self._tail.order = StepOrder()
            decoded = self._tail.decode(frame)
            if deep:
                self._tail.encode(self._tail.step(decoded))
        elif isinstance(message, Gradients):
            self._head._order = AnswerOrder()
            self._head._order.sent(0, 5)
            self._head.decode(frame)
        elif isinstance(message, Open):
            check_open(message)
        return type(message).__name__


class Fuzzer:
    """Makes hostile frames from a seed of the random numbers; each must end in a message or a `TandemError`."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._decoders = [Decoders(each) for each in settings()]
        self._all = [seed for each in self._decoders for seed in each.seeds]
        self.tally = Tally()

    def run(self, frames: int) -> None:
        """Try so many frames.

        Raises:
            Exception: whatever came of a frame that is no `TandemError`; ``last`` is that frame.
        """
        for _ in range(frames):
            self.one()

    def one(self) -> None:
        """Try one frame."""
        rng = self._rng
        decoders = rng.choice(self._decoders)
        # Those that carry tensors have most to decode.
        seed = rng.choice(decoders.seeds[-2:]) if rng.random() < 0.6 else rng.choice(decoders.seeds)
        self.last = hostile(seed, self._all, rng)
        self.tally.frames += 1
        self.tally.nbytes += len(self.last)
        self.tally.outcomes[self._outcome(decoders, self.last)] += 1

    def _outcome(self, decoders: Decoders, data: bytes) -> str:
        rng, reader = self._rng, FrameReader(LIMITS)
        try:
            if rng.random() < 0.1:
                cut = rng.randrange(len(data) + 1)
                frames = feed(reader, data[:cut]) + feed(reader, data[cut:])
            else:
                frames = feed(reader, data)
            if len(reader.get_buffer()) > max(LIMITS.header_bytes, LIMITS.body_bytes):
                raise AssertionError(f"{len(reader.get_buffer())} bytes were allocated")
            for frame in frames:
                if sum(map(len, frame.buffers)) > frame.nbytes:
                    raise AssertionError("the buffers of a frame are larger than it")
            taken = [decoders.take(frame, deep=rng.random() < 0.2) for frame in frames]
        except TandemError as error:
            return type(error).__name__
        return f"taken as {taken[0]}" if taken else "wants more"


def peak_mb() -> float:
    """Largest memory of this process so far, in MiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
