"""A tail that notes when it worked on each step; the notes travel back with the answer."""

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import torch

from common.training.digest import parameter_digests
from common.training.exchange import Answer, Upload
from common.training.tail import Tail
from common.wire.framing import Buffer, pack
from common.wire.messages import TailTimes
from common.wire.tcp import Received


def busy_clock(device: torch.device | str) -> Callable[[], float]:
    """A clock that counts work on a device, in seconds: CPU time of the calling thread, or time until CUDA is done.

    Waiting for a core or for the other threads of this process is no work.
    """
    if torch.device(device).type == "cpu":
        return time.thread_time

    def synchronized() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronized


class TimedTail:
    """Carries a step through a `Tail`: `decode`, `step` and `encode` may each have a thread of their own."""

    def __init__(self, tail: Tail, clock: Callable[[], float]) -> None:
        self._tail = tail
        self._clock = clock

    def decode(self, received: Received) -> Upload:
        """The upload in a frame, with the time its bytes took to come."""
        start, busy = self._now()
        upload = self._tail.decode(received.frame)
        receive = (received.started_s, received.seconds)
        return replace(upload, times=TailTimes(receive=receive, decode=self._since(start, busy)))

    def step(self, upload: Upload) -> Answer:
        """The answer to an upload."""
        start, busy = self._now()
        answer = self._tail.step(upload)
        times = msgspec.structs.replace(upload.times, compute=self._since(start, busy))
        return replace(answer, times=times)

    def encode(self, answer: Answer) -> list[Buffer]:
        """The frame of an answer."""
        start, busy = self._now()
        outgoing = self._tail.encode(answer)
        times = msgspec.structs.replace(answer.times, encode=self._since(start, busy))
        return pack(msgspec.structs.replace(outgoing.message, times=times), outgoing.buffers)

    def digests(self) -> dict[str, str]:
        """Digest of each of the tail's parameters and buffers."""
        return parameter_digests(self._tail.part)

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), self._clock()

    def _since(self, start: float, busy: float) -> tuple[float, float]:
        return start, self._clock() - busy
