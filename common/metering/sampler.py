"""A thread that takes a sample again and again, keeps to its share of the machine, and tells when it dies."""

import logging
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from common.metering.report import Cost

logger = logging.getLogger(__name__)

LARGEST_SHARE = 0.005
"""Of one core. A sample that costs more than this share of the interval is taken less often; an energy and a memory
meter together then stay within 1 %."""
_CATCHING_UP = 3.0
"""Intervals to the next sample, at most, while earlier ones took more than their share."""
_JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Timing:
    """The clocks of a meter; tests give their own, and wait for nothing."""

    clock: Callable[[], float] = time.perf_counter
    """Seconds."""
    cpu_clock: Callable[[], float] = time.thread_time
    """CPU seconds of the calling thread."""
    wait: Callable[[threading.Event, float], bool] = threading.Event.wait
    """Waits for an event, for so many seconds at most; whether it came."""


REAL = Timing()


class Sampler:
    """Calls ``take`` at an interval until stopped.

    Args:
        take: takes a sample, and returns the CPU seconds of programs that it started for it.
        interval_s: between two samples.
        largest_share: of a core that sampling may take; the interval stretches to keep to it.
        timing: for tests.
    """

    def __init__(
        self,
        take: Callable[[], float],
        interval_s: float,
        *,
        largest_share: float = LARGEST_SHARE,
        timing: Timing = REAL,
    ) -> None:
        self._take, self._interval_s, self._largest_share = take, interval_s, largest_share
        self._timing, self._clock = timing, timing.clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._recent: deque[float] = deque(maxlen=5)
        self._samples, self._cpu_s = 0, 0.0
        self._start_s = self._end_s = 0.0
        self.failure: str | None = None

    def start(self) -> None:
        """Take the first sample in the calling thread, so that what is wrong shows here, and go on in its own."""
        self._start_s = self._clock()
        self._sample()
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and take the last sample unless it died; nothing if it was never started."""
        self._stopped.set()
        if self._thread.ident is None:
            return
        self._thread.join(_JOIN_TIMEOUT_S)
        if self._thread.is_alive():  # a sensor's driver that hangs must not hang what is measured
            self.failure = f"the sampler hangs in a sensor since more than {_JOIN_TIMEOUT_S:g} s"
            logger.warning("%s; what it measured before is kept", self.failure)
        elif self.failure is None:
            self._guarded()
        self._end_s = self._clock()

    def cost(self) -> Cost:
        """Of all samples so far."""
        return Cost(self._samples, self._cpu_s, (self._end_s or self._clock()) - self._start_s, self._interval_s)

    def _run(self) -> None:
        due_s = self._clock()
        while self.failure is None:
            pause_s = self._pause_s()
            # On a grid; but behind a late sample the next is not at once: a counter tells little of so short a time.
            due_s = max(due_s + pause_s, self._clock() + pause_s / 2)
            if self._timing.wait(self._stopped, due_s - self._clock()):
                return
            self._guarded()

    def _pause_s(self) -> float:
        """To the next sample: the interval, or as long as keeps the cost within its share.

        What the median sample costs sets the pace. A few that were slow (a page fault, another program) are made up
        for little by little: after one of 30 ms, 3 s without any sample would be a gap.
        """
        least_s = statistics.median(self._recent) / self._largest_share if self._recent else 0.0
        behind_s = self._cpu_s / self._largest_share - (self._clock() - self._start_s)
        return max(self._interval_s, least_s, min(behind_s, _CATCHING_UP * self._interval_s))

    def _guarded(self) -> None:
        try:
            self._recent.append(self._sample())
        except Exception as error:
            # Whatever it is, it is told, and what is measured runs on.
            self.failure = (
                f"the sampler died behind {self._samples} samples, after {self._clock() - self._start_s:.2f} s: "
                f"{type(error).__name__}: {error}"
            )
            logger.warning("%s; what it measured before is kept", self.failure)
            logger.debug("the sampler's end", exc_info=True)

    def _sample(self) -> float:
        before_s = self._timing.cpu_clock()
        child_cpu_s = self._take()
        cpu_s = self._timing.cpu_clock() - before_s + child_cpu_s
        self._samples += 1
        self._cpu_s += cpu_s
        return cpu_s
