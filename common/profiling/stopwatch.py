"""Seconds of work on a device, as a run's stages count them, so that a profile and a run speak of the same thing."""

import time
from collections.abc import Callable

import torch

Stop = Callable[[], float]


class Stopwatch:
    """Times work on a device: `start` where it begins; what that returns gives the seconds where it ends.

    On a CPU these are the calling thread's CPU time: waiting for a core or for other programs is no work. On CUDA
    they are the time between two events on the stream, waited for; and what also works on the host (`start_host`) is
    timed by the clock, the device idle before and behind it.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"

    def start(self) -> Stop:
        """Begin to time what the device computes."""
        if not self._cuda:
            return self.start_host()
        stream = torch.cuda.current_stream(self._device)
        begun = _recorded(stream)

        def stop() -> float:
            ended = _recorded(stream)
            ended.synchronize()
            return float(begun.elapsed_time(ended)) / 1e3

        return stop

    def start_host(self) -> Stop:
        """Begin to time what host and device do together, such as encoding tensors of the device."""
        clock = time.perf_counter if self._cuda else time.thread_time
        self.settle()
        begun_s = clock()

        def stop() -> float:
            self.settle()
            return clock() - begun_s

        return stop

    def settle(self) -> None:
        """Wait until the device has done all that it was given."""
        if self._cuda:
            torch.cuda.synchronize(self._device)


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
