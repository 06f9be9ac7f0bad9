"""When to send how large a probe over a direction of the link that nothing else tells about. Pure: instants are given.

A probe takes `PROBE_S` at the rate as it was known, every `EVERY_S`: half a percent of the link, and never more than
`SHARE` of its time, where even the smallest probe takes long. Until a rate is known probes grow from one to the next.
"""

import math

from common.planning.context import PROBE_BYTES, Rate

LEAST_BYTES = 1 << 14
PROBE_S = 0.02
EVERY_S = 4.0
"""From the last transfer that told the rate, a probe or another."""
SHARE = 0.05
"""Of the time, at most."""
_GROWTH = 4
_BUSY_BYTES = 1 << 16  # that went the same way since the last look: what goes there will tell, and is not to be slowed
_PATIENCE_S = 30.0  # for that


class Probes:
    """Probes of one direction.

    Args:
        rate: what is known of it.
        now_s: an instant.
    """

    def __init__(self, rate: Rate, now_s: float) -> None:
        self._rate = rate
        self._told_s = now_s
        self._next_s = -math.inf
        self._least_bytes = LEAST_BYTES

    def due(self, now_s: float, moved_bytes: int) -> int:
        """Size of a probe that is to be sent now; 0 for none.

        Args:
            now_s: an instant.
            moved_bytes: of training, the same way since this was asked before.
        """
        rate = self._rate
        self._told_s = max(self._told_s, rate.told_s)
        if now_s < self._next_s or (now_s - rate.told_s < EVERY_S and not self._doubted):
            return 0
        if moved_bytes > _BUSY_BYTES and not rate.outrun and now_s - self._told_s < _PATIENCE_S:
            return 0
        wanted = int((rate.bps or 0.0) / 8 * PROBE_S)
        return min(max(wanted, self._least_bytes), PROBE_BYTES)

    def came(self, nbytes: int, seconds: float, now_s: float, *, told: bool) -> None:
        """A probe has come; ``told`` where its time was long enough to tell the rate."""
        grows = not told and nbytes < PROBE_BYTES
        self._least_bytes = min(_GROWTH * nbytes, PROBE_BYTES) if grows else LEAST_BYTES
        self._next_s = now_s + max(0.0 if grows or self._doubted else EVERY_S, seconds / SHARE)

    @property
    def _doubted(self) -> bool:
        """Whether the next look is late enough."""
        return self._rate.doubted or self._rate.outrun
