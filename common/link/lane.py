"""One direction of a link: what its connections share, and the counts of what it carried."""

import threading

from common.link.gate import Gate
from common.link.pacer import Pacer, buffer_bytes, chunk_bytes
from common.link.trace import Trace


class Lane:
    """One direction of a link, shared by all its connections: rate, delay, counts, and a gate that stops them all.

    Args:
        rate: Rate of the payload in bit/s, or rates over time.
        delay_s: Delay without jitter.
        jitter_s: Largest additional delay.
    """

    def __init__(self, rate: float | Trace, delay_s: float, jitter_s: float) -> None:
        # Chunks are small beside what usually leaves at a time, buffers large enough for what leaves at most.
        usual_bps, most_bps = (rate.mean_bps, rate.peak_bps) if isinstance(rate, Trace) else (rate, rate)
        self._rate = rate
        self.pacer = Pacer(rate)
        self.gate = Gate()
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.chunk_bytes = chunk_bytes(usual_bps)
        # What one connection can have on a real path: the bytes in flight and one socket buffer.
        self.buffer_bytes = buffer_bytes(most_bps)
        self.capacity_bytes = int(most_bps / 8 * (delay_s + jitter_s)) + self.buffer_bytes
        self.delivered_bytes = 0
        self.max_held_bytes = 0
        self._held_bytes = 0
        self._lock = threading.Lock()

    def begin(self, now_s: float, at_s: float = 0.0) -> None:
        """A trace is ``at_s`` behind its beginning at an instant; below 0, as far before the end of a round."""
        if at_s < 0 and isinstance(self._rate, Trace):
            at_s = at_s % self._rate.duration_s if self._rate.loop else 0.0
        self.pacer.begin(now_s, at_s)

    def hold(self, size_bytes: int) -> None:
        """Count bytes that were read and not delivered yet."""
        with self._lock:
            self._held_bytes += size_bytes
            self.max_held_bytes = max(self.max_held_bytes, self._held_bytes)

    def deliver(self, size_bytes: int) -> None:
        """Count held bytes that reached the receiver."""
        with self._lock:
            self._held_bytes -= size_bytes
            self.delivered_bytes += size_bytes

    def drop(self, size_bytes: int) -> None:
        """Count held bytes that were lost with their connection."""
        with self._lock:
            self._held_bytes -= size_bytes
