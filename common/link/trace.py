"""Bandwidth over time, as a curve: how many bytes a link could have carried since the trace began.

    time       0 s        1 s            2 s            3 s, and again from 0 s
    rate       | 8 Mbit/s | nothing      | 4 Mbit/s     |
    carried    0          1.0 MB         1.0 MB         1.5 MB

A message of 1.2 MB that starts at 0 s has left at 2.4 s: the curve reaches 1.2 MB there. What the link could have
carried while nothing was sent is lost, as on a real one.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

_PEAK_WINDOW_S = 0.1


class Trace:
    """What a link carries over time, once or over and over.

    Args:
        times_s: instants from 0 to the end, not descending.
        carried_bytes: bytes carried by each of these instants, from 0 to above 0, not descending; between two
            instants the rate is constant.
        loop: whether the trace begins again at its end; else the link carries nothing more behind it.
        name: what it is called in records.
    """

    def __init__(
        self, times_s: Sequence[float], carried_bytes: Sequence[float], *, loop: bool = True, name: str = "trace"
    ) -> None:
        self.loop = loop
        self.name = name
        self._times = [float(each) for each in times_s]
        self._bytes = [float(each) for each in carried_bytes]

    @property
    def duration_s(self) -> float:
        """Length of the trace."""
        return self._times[-1]

    @property
    def total_bytes(self) -> float:
        """What the link carries in the whole trace."""
        return self._bytes[-1]

    @property
    def mean_bps(self) -> float:
        """Mean rate in bit/s."""
        return 8 * self.total_bytes / self.duration_s

    @property
    def peak_bps(self) -> float:
        """The highest mean rate over a tenth of a second, in bit/s."""
        window_s = min(_PEAK_WINDOW_S, self.duration_s)
        grid = np.arange(0.0, self.duration_s + window_s / 2, window_s)
        return float(np.diff(np.interp(grid, self._times, self._bytes)).max() * 8 / window_s)

    def carried(self, time_s: float) -> float:
        """Bytes that the link could have carried by an instant, since the trace began."""
        if time_s <= 0:
            return 0.0
        if not self.loop:
            return self._within(min(time_s, self.duration_s))
        rounds, rest_s = divmod(time_s, self.duration_s)
        return rounds * self.total_bytes + self._within(rest_s)

    def finish_s(self, start_s: float, size_bytes: float) -> float:
        """The instant by which ``size_bytes`` have left that start at ``start_s``; infinite if they never do."""
        if not size_bytes or math.isinf(start_s):
            return start_s
        target = self.carried(start_s) + size_bytes
        if not self.loop:
            return self._reached(target) if target <= self.total_bytes else math.inf
        rounds, rest = divmod(target, self.total_bytes)
        if not rest:  # the last byte of a round leaves in that round
            rounds, rest = rounds - 1, self.total_bytes
        # Rounding must not let a chunk leave before it started.
        return max(start_s, rounds * self.duration_s + self._reached(rest))

    def __str__(self) -> str:
        end = "over and over" if self.loop else "once"
        return f"{self.name} ({self.mean_bps / 1e6:.3g} Mbit/s on average over {self.duration_s:g} s, {end})"

    def _within(self, time_s: float) -> float:
        """Bytes by an instant of the first round."""
        behind = min(bisect_right(self._times, time_s), len(self._times) - 1)
        return _between(time_s, self._times, self._bytes, behind)

    def _reached(self, size_bytes: float) -> float:
        """The first instant of a round by which so many bytes have left."""
        behind = min(bisect_left(self._bytes, size_bytes), len(self._bytes) - 1)
        return _between(size_bytes, self._bytes, self._times, behind)


def _between(x: float, xs: Sequence[float], ys: Sequence[float], behind: int) -> float:
    """Height at ``x`` of the line between points ``behind - 1`` and ``behind``."""
    x0, x1, y0, y1 = xs[behind - 1], xs[behind], ys[behind - 1], ys[behind]
    return y1 if x1 <= x0 else y0 + (y1 - y0) * min(max((x - x0) / (x1 - x0), 0.0), 1.0)
