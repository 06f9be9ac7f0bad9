"""One direction of a link: what its connections share, and the counts of what it carried."""

import threading

from common.link.pacer import Pacer, buffer_bytes, chunk_bytes


class Lane:
    """One direction of a link, shared by all its connections: rate, delay and counts.

    Args:
        rate_bps: Rate of the payload in bit/s.
        delay_s: Delay without jitter.
        jitter_s: Largest additional delay.
    """

    def __init__(self, rate_bps: float, delay_s: float, jitter_s: float) -> None:
        self.pacer = Pacer(rate_bps)
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.chunk_bytes = chunk_bytes(rate_bps)
        # What one connection can have on a real path: the bytes in flight and one socket buffer.
        self.buffer_bytes = buffer_bytes(rate_bps)
        self.capacity_bytes = int(rate_bps / 8 * (delay_s + jitter_s)) + self.buffer_bytes
        self.delivered_bytes = 0
        self.max_held_bytes = 0
        self._held_bytes = 0
        self._lock = threading.Lock()

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
