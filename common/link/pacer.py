"""When bytes leave a link of some rate and arrive after its delay: arithmetic on instants, no clock.

    chunk      arrives            start = max(arrival, next free)     finish = start + size/rate
    1          0 ms               0 ms                                2 ms
    2          0 ms               2 ms (queued behind 1)              4 ms
    3          9 ms               9 ms (the link was idle)            11 ms

A chunk is delivered at `finish + delay + jitter`. Since each start follows from the finish before it and not
from the instant at which a thread woke up, late threads on a busy machine do not lower the rate. A rate that changes
over time is a `Trace`, which says when so many bytes have left.
"""

import random
import threading

from common.link.trace import Trace

SOCKET_BUFFER_BYTES = 65536
SOCKET_BUFFER_S = 0.005
PACKET_BYTES = 1448  # payload of one Ethernet frame of 1500 bytes
CHUNK_S = 0.002


def chunk_bytes(rate_bps: float) -> int:
    """How much is read at a time: 2 ms of the rate, at least one packet, at most a socket buffer."""
    return int(min(max(rate_bps / 8 * CHUNK_S, PACKET_BYTES), SOCKET_BUFFER_BYTES))


def buffer_bytes(rate_bps: float) -> int:
    """What one socket buffer holds: 64 KiB, or 5 ms of a rate above 105 Mbit/s.

    This is how late a thread may wake up without the link running dry; on a busy machine it is milliseconds.
    """
    return int(max(rate_bps / 8 * SOCKET_BUFFER_S, SOCKET_BUFFER_BYTES))


class Pacer:
    """Hands out transmission times on one direction of a link to all connections that share it.

    Args:
        rate: Rate in bit/s, or rates over time; these begin at `begin`, or at the first bytes.
    """

    def __init__(self, rate: float | Trace) -> None:
        self._rate = rate
        self._begun_s: float | None = None
        self._next_free_s = 0.0
        self._lock = threading.Lock()

    def begin(self, now_s: float, at_s: float = 0.0) -> None:
        """A trace is ``at_s`` behind its beginning at an instant; what has been reserved before stays so."""
        with self._lock:
            self._begun_s = now_s - at_s

    def reserve(self, arrival_s: float, size_bytes: int) -> float:
        """The instant at which `size_bytes` that came at `arrival_s` have left the sender; infinite if never."""
        with self._lock:
            self._next_free_s = self._finish_s(max(arrival_s, self._next_free_s), size_bytes)
            return self._next_free_s

    def _finish_s(self, start_s: float, size_bytes: int) -> float:
        if not isinstance(self._rate, Trace):
            return start_s + size_bytes * 8 / self._rate
        if self._begun_s is None:
            self._begun_s = start_s
        return self._begun_s + self._rate.finish_s(start_s - self._begun_s, size_bytes)


class Delay:
    """Adds delay and jitter to the chunks of one connection and keeps their order."""

    def __init__(self, delay_s: float, jitter_s: float, rng: random.Random) -> None:
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._rng = rng
        self._last_s = 0.0

    def deliver_at(self, finish_s: float) -> float:
        """The instant of delivery; never later than `finish_s` + delay + jitter, if these do not decrease."""
        self._last_s = max(self._last_s, finish_s + self._delay_s + self._rng.uniform(0.0, self._jitter_s))
        return self._last_s
