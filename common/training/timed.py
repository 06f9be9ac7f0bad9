"""A tail that notes when it worked on each step; the notes travel back with the answer."""

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import torch

from common.training.digest import parameter_digests
from common.training.exchange import Answer, Forwarded, Returned, Upload
from common.training.tail import Tail
from common.wire.framing import Buffer, pack
from common.wire.structs import TailTimes
from common.wire.tcp import Received


def busy_timer(device: torch.device | str) -> Callable[[], Callable[[], float]]:
    """A timer of work on a device: call it where work begins, and what it returns where it ends, for the seconds.

    On a CPU these are the calling thread's CPU time: waiting for a core or for other threads is no work. On CUDA they
    are the time that the stream spent between the two calls, behind what was queued before.
    """
    if torch.device(device).type == "cpu":
        return _start_on_cpu

    def start() -> Callable[[], float]:
        stream = torch.cuda.current_stream(device)
        begun = _record(stream)

        def stop() -> float:
            ended = _record(stream)
            ended.synchronize()
            return float(begun.elapsed_time(ended)) / 1e3

        return stop

    return start


def slowed(timer: Callable[[], Callable[[], float]], factor: float) -> Callable[[], Callable[[], float]]:
    """The timer of a device that is ``factor`` times slower: work is followed by rest, and the rest counts as work."""
    if factor == 1:
        return timer

    def start() -> Callable[[], float]:
        stop = timer()

        def rest() -> float:
            busy_s = stop()
            time.sleep((factor - 1) * busy_s)
            return factor * busy_s

        return rest

    return start


def _record(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


def _start_on_cpu() -> Callable[[], float]:
    begun = time.thread_time()
    return lambda: time.thread_time() - begun


class TimedTail:
    """Carries a step through a `Tail`: `decode`, `step` and `encode` may each have a thread of their own."""

    def __init__(self, tail: Tail, timer: Callable[[], Callable[[], float]]) -> None:
        self._tail = tail
        self._timer = timer
        self._forwarded = TailTimes()

    def decode(self, received: Received) -> Upload:
        """The upload in a frame, with the time its bytes took to come."""
        start, stop = self._now()
        upload = self._tail.decode(received.frame)
        receive = (received.started_s, received.seconds)
        times = TailTimes(receive=receive, decode=(start, stop()), timed_bytes=received.timed_bytes)
        return replace(upload, times=times)

    def act(self, upload: Upload) -> Answer | Forwarded:
        """The answer to an upload, or its outputs, where the labels are at the edge."""
        return self.step(upload) if self._tail.labels_here else self.forward(upload)

    def step(self, upload: Upload) -> Answer:
        """The answer to an upload."""
        start, stop = self._now()
        answer = self._tail.step(upload)
        times = msgspec.structs.replace(upload.times, compute=(start, stop()))
        return replace(answer, times=times)

    def forward(self, upload: Upload) -> Forwarded:
        """The outputs for an upload whose labels stay at the edge."""
        start, stop = self._now()
        forwarded = self._tail.forward(upload)
        self._forwarded = msgspec.structs.replace(upload.times, compute=(start, stop()))
        return replace(forwarded, times=self._forwarded)

    def turn(self, returned: Returned) -> Answer:
        """The answer to the gradients of these outputs; both passes are its compute."""
        _, stop = self._now()
        answer = self._tail.turn(returned)
        start, busy_s = self._forwarded.compute
        return replace(answer, times=msgspec.structs.replace(self._forwarded, compute=(start, busy_s + stop())))

    def encode(self, answer: Answer) -> list[Buffer]:
        """The frame of an answer."""
        start, stop = self._now()
        outgoing = self._tail.encode(answer)
        times = msgspec.structs.replace(answer.times, encode=(start, stop()))
        return pack(msgspec.structs.replace(outgoing.message, times=times), outgoing.buffers)

    def digests(self) -> dict[str, str]:
        """Digest of each of the tail's parameters and buffers."""
        return parameter_digests(self._tail.part)

    def _now(self) -> tuple[float, Callable[[], float]]:
        return time.perf_counter(), self._timer()
