"""When to send how large a probe over a direction of the link that nothing else tells about. Pure: instants are given.

A probe takes `PROBE_S` at the rate as it was known, every `EVERY_S`: half a percent of the link. Where even the
smallest takes long there are fewer: no more than `SHARE` of the time. Those that are too short to tell grow from one to
the next. Behind one that shows another rate than was known the next comes at the next look, of the size that suits it.
Before a run nothing else uses the link, and a look at it is as good as it is long: it is probed for `SURVEY_S`, half of
the time.
"""

import math

from common.planning.context import PROBE_BYTES, Rate

LEAST_BYTES = 1 << 14
PROBE_S = 0.02
EVERY_S = 4.0
"""From the last transfer that told the rate, a probe or another."""
SHARE = 0.05
"""Of the time, at most."""
SURVEY_S = 1.5
"""Of a look at a link before a run: what a link carries in one moment, it often does not in the next second."""
SURVEY_PROBE_S = 0.05
_GROWTH = 16
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
        self._shown_bps = 0.0

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
        return self._size()

    def survey(self) -> int:
        """Size of a probe of a link that carries nothing else."""
        return self._size(SURVEY_PROBE_S)

    def came(self, nbytes: int, shown_bps: float, now_s: float) -> None:
        """A probe of a size has come; ``shown_bps`` is 0 where its time was too short to tell."""
        grows = not shown_bps and nbytes < PROBE_BYTES
        self._least_bytes = min(_GROWTH * nbytes, PROBE_BYTES) if grows else LEAST_BYTES
        self._shown_bps = shown_bps
        next_takes_s = 8 * self._size() / shown_bps if shown_bps else 0.0
        soon = grows or (self._doubted and shown_bps)
        self._next_s = now_s + max(0.0 if soon else EVERY_S, next_takes_s / SHARE)

    def _size(self, seconds: float = PROBE_S) -> int:
        bps = self._shown_bps if self._rate.doubted and self._shown_bps else self._rate.bps or 0.0
        return min(max(int(bps / 8 * seconds), self._least_bytes), PROBE_BYTES)

    @property
    def _doubted(self) -> bool:
        """Whether the next look is late enough."""
        return self._rate.doubted or self._rate.outrun
