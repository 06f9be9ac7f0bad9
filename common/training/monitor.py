"""What a run knows of its link: written by the threads that receive, read by whoever plans or records."""

import threading
import time
from collections.abc import Callable

from common.planning.context import Direction, LinkEstimate, Spread
from common.planning.log import Context
from common.planning.probes import Probes

DIRECTIONS: tuple[Direction, Direction] = ("up", "down")


class LinkMonitor:
    """A link's estimate, and when to probe for more of it; every thread may use it.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._estimate = LinkEstimate()
        now_s = clock()
        self._probes = {each: Probes(self._estimate.rates[each], now_s) for each in DIRECTIONS}
        self._moved = (0, 0)
        self._lock = threading.Lock()

    def transferred(self, direction: Direction, nbytes: int, seconds: float) -> bool:
        """Bytes have come in so many seconds at their receiver, just now; whether that tells the rate."""
        with self._lock:
            return self._estimate.transferred(direction, nbytes, seconds, self._clock())

    def answered(self, rtt_s: float) -> None:
        """A small message has been answered just now."""
        with self._lock:
            self._estimate.answered(rtt_s, self._clock())

    def context(self, now_s: float | None = None) -> Context:
        """The link now, or at another instant of the clock."""
        with self._lock:
            return self._estimate.context(self._clock() if now_s is None else now_s)

    def spread(self) -> Spread:
        """How much the rates swing: what a decision should be robust against."""
        with self._lock:
            return self._estimate.spread

    def rate_bps(self, direction: Direction) -> float | None:
        """The rate of one direction."""
        with self._lock:
            return self._estimate.rates[direction].bps

    def probes(self, moved: tuple[int, int]) -> tuple[int, int]:
        """Sizes of the probes that are due, up and down.

        Args:
            moved: bytes of training so far, up and down (`Connection.moved`).
        """
        with self._lock:
            # A connection that was replaced begins to count anew: then nothing is known, and nothing sent.
            since = [abs(now - before) for now, before in zip(moved, self._moved, strict=True)]
            self._moved = moved
            now_s = self._clock()
            up, down = (self._probes[each].due(now_s, nbytes) for each, nbytes in zip(DIRECTIONS, since, strict=True))
            return up, down

    def survey(self) -> tuple[int, int]:
        """Sizes of probes, up and down, of a link that carries nothing else."""
        with self._lock:
            up, down = (self._probes[each].survey() for each in DIRECTIONS)
            return up, down

    def probed(self, direction: Direction, size: int, timed_bytes: int, seconds: float) -> None:
        """A probe of a size has come, so many of its bytes in so many seconds."""
        with self._lock:
            now_s = self._clock()
            told = self._estimate.transferred(direction, timed_bytes, seconds, now_s, probe=True)
            self._probes[direction].came(size, 8 * timed_bytes / seconds if told else 0.0, now_s)
