"""What the link carries now: from transfers that happen anyway, probes, and round trips. Pure: instants are given.

A direction's rate is bytes over seconds, summed over its transfers, each with weight exp(-age / `CONSTANT_S`). So
seconds per byte are weighted by bytes: a large transfer counts more than a small one, and on a link that swings the
result is what a long transfer would get. A probe stands for the time since anything told the rate. On a link that is
known for `CONSTANT_S`, one that is further away than transfers usually are counts as if it were no further. Where all
of `CHANGE_S` are, on one side, the link has changed: what was before them is forgotten.

    transfers of 1 s at   20.0  20.0 |  9.9  10.1   9.9  10.0   Mbit/s
    estimate              20.0  20.0 | 19.9  19.9  10.0  10.0   the third one alike: these alone, without the first

Seconds are the receiver's, from behind the first bytes to the last one: time that bytes waited at the sender, or behind
the message before, is not in them. Of round trips the shortest of some time counts: a ping behind bulk data is late.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

from common.planning.log import Context

Direction = Literal["up", "down"]

CONSTANT_S = 10.0
"""Time constant of a rate while the link stays as it is."""
CHANGE_S = 3.0
"""For how long transfers must be other than those before, until they are taken for another link."""
LEAST_BYTES = 1 << 13
"""A transfer that has fewer behind its first ones says nothing: some segments, which may come in one piece."""
LEAST_S = 0.005
"""Shorter times say nothing either: threads and packets may be as late, and what was held up behind a receiver that was
slow comes at once. Only a probe, which is alone, shows that the link carries as much as that in this time."""
PROBE_BYTES = 1 << 20
"""Of the largest probe: what either side takes on a control connection."""
PROBE_STANDS_S = 4.0
"""A probe stands for the time since anything told the rate, at most this: else what was there before, which had all of
the time, would outweigh probes for minutes, and of probes the slow ones the others."""
RTT_S = 30.0
"""The shortest round trip of this time counts."""
_MOST_S = 3600.0
_LEAST_CHANGE = 0.05  # of a rate; below it there is no other link
_LATE = 3  # times the least: what is due in less than that, and takes less than this, was perhaps only late
_CHANGE = 2.5  # spreads: beyond, a transfer is other than those before
_HALF = 0.5  # of what was known before; with less, it is known anew
_FIRST_SPREAD, _FIRST_SPREAD_S = 0.2, 0.02  # what is supposed, and seconds of transfer that it stands for


@dataclass
class _Sums:
    """Some value over some weight."""

    value: float = 0.0
    weight: float = 0.0

    def add(self, value: float, weight: float) -> None:
        """Add to them."""
        self.value += value
        self.weight += weight

    def fade(self, kept: float) -> None:
        """Keep a part of them."""
        self.value *= kept
        self.weight *= kept

    @property
    def mean(self) -> float:
        """The value for each unit of weight."""
        return self.value / self.weight


class _Run:
    """Transfers in a row that were all faster, or all slower, than those before."""

    def __init__(self, begun_s: float, *, faster: bool) -> None:
        self.begun_s, self.faster = begun_s, faster
        self._first, self._others = _Sums(), _Sums()
        self.apart = _Sums()

    def add(self, nbytes: float, seconds: float) -> None:
        """One more that told its rate."""
        (self._others if self._first.weight else self._first).add(nbytes, seconds)

    @property
    def sums(self) -> _Sums:
        """Without the first where there are others: it may have begun before the change."""
        return self._others if self._others.weight else self._first


class Rate:
    """The rate of one direction."""

    def __init__(self) -> None:
        self._sums = _Sums()
        self._apart = _Sums()
        self._run: _Run | None = None
        self._at_s = self._since_s = -math.inf
        self._at_least_bps = 0.0  # by probes that were too quick to tell more
        self.told_s = -math.inf
        """When a transfer last told the rate."""
        self.outrun = False
        """Whether one has been quicker since, too quick to tell by how much."""

    @property
    def bps(self) -> float | None:
        """In bit/s; None before the first transfer."""
        mean_bps = 8 * self._sums.mean if self._sums.weight else 0.0
        return max(mean_bps, self._at_least_bps) or None

    @property
    def spread(self) -> float | None:
        """How far a transfer's rate usually is from the estimate, as a share of it; None before the first one."""
        return math.expm1(self._usual) if self._sums.weight else None

    @property
    def doubted(self) -> bool:
        """Whether the last transfer was other than those before."""
        return self._run is not None

    def add(self, nbytes: int, seconds: float, at_s: float, *, probe: bool = False) -> bool:
        """Take note of a transfer; whether it tells the rate.

        Args:
            nbytes: what came in these seconds, at the receiver; without what was there when they began.
            seconds: to the last byte.
            at_s: about when it ended.
            probe: whether it was sent for this alone.
        """
        if nbytes < LEAST_BYTES or not seconds <= _MOST_S:  # no number, say: it comes from the peer
            return False
        known_bps, at_s = self.bps or 0.0, max(at_s, self._at_s)
        if seconds < LEAST_S:
            quicker = nbytes <= PROBE_BYTES and 8 * nbytes > LEAST_S * known_bps
            self.outrun = not probe and (quicker or self.outrun)
            if probe and quicker:
                self._at_least_bps = 8 * nbytes / LEAST_S
                self._suspect(at_s, faster=True)
            return False
        if not probe and 8 * nbytes < LEAST_S * known_bps and seconds < _LATE * LEAST_S:
            return False
        stands_s = seconds
        if probe and self._sums.weight:
            stands_s = max(min(at_s - self.told_s, PROBE_STANDS_S), seconds)
        self._take(nbytes * stands_s / seconds, stands_s, at_s - seconds, at_s)
        if 8 * nbytes < self._at_least_bps * seconds:
            self._at_least_bps = 0.0
        self.told_s, self.outrun = at_s, False
        return True

    @property
    def _usual(self) -> float:
        """The same, as a logarithm."""
        apart = self._apart
        return (apart.value + _FIRST_SPREAD * _FIRST_SPREAD_S) / (apart.weight + _FIRST_SPREAD_S)

    def _take(self, nbytes: float, seconds: float, begun_s: float, at_s: float) -> None:
        kept = math.exp((self._at_s - at_s) / CONSTANT_S)
        self._at_s = at_s
        apart = math.log(nbytes / seconds / self._sums.mean) if self._sums.weight else 0.0
        limit = max(_LEAST_CHANGE, _CHANGE * self._usual)
        for each in (self._sums, self._apart):
            each.fade(kept)
        if kept < _HALF:
            self._since_s = at_s
        # One transfer that was held up, or came in a burst, is no other link: it counts at the limit, where the link
        # has been known for some time.
        bound = limit if at_s - self._since_s >= CONSTANT_S else math.inf
        self._sums.add(nbytes * math.exp(min(bound - apart, 0.0)), seconds * math.exp(min(bound + apart, 0.0)))
        if abs(apart) <= limit:
            self._end_run()
            self._apart.add(seconds * abs(apart), seconds)
            return
        run = self._suspect(begun_s, faster=apart > 0)
        run.add(nbytes, seconds)
        # Bounded as well, or it would pass for noise behind which any change hides.
        run.apart.add(seconds * min(abs(apart), 2 * limit), seconds)
        if at_s - run.begun_s >= CHANGE_S:
            self._sums, self._run, self._since_s = run.sums, None, run.begun_s

    def _suspect(self, begun_s: float, *, faster: bool) -> _Run:
        """A transfer since an instant was other than those before: one more of its kind, or the first."""
        if self._run is None or self._run.faster != faster:
            self._end_run()
            self._run = _Run(begun_s, faster=faster)
        return self._run

    def _end_run(self) -> None:
        """It was noise, and counts as such."""
        if self._run is not None:
            self._apart.add(self._run.apart.value, self._run.apart.weight)
            self._run = None


@dataclass(frozen=True)
class Spread:
    """How far a transfer's rate usually is from the estimate, as a share of it; None: not known yet."""

    up: float | None
    down: float | None


class LinkEstimate:
    """Both directions, and the round trip."""

    def __init__(self) -> None:
        self.rates: dict[Direction, Rate] = {"up": Rate(), "down": Rate()}
        self._round_trips: deque[tuple[float, float]] = deque()

    def transferred(
        self, direction: Direction, nbytes: int, seconds: float, at_s: float, *, probe: bool = False
    ) -> bool:
        """Take note of a transfer; whether it tells the rate. See `Rate.add`."""
        return self.rates[direction].add(nbytes, seconds, at_s, probe=probe)

    def answered(self, rtt_s: float, at_s: float) -> None:
        """Take note of a round trip of a small message, which ended at an instant."""
        trips = self._round_trips
        while trips and trips[-1][1] >= rtt_s:  # never the shortest again
            trips.pop()
        trips.append((at_s, rtt_s))
        self._forget(at_s)

    def context(self, now_s: float) -> Context:
        """The link at an instant."""
        self._forget(now_s)
        rtt_s = self._round_trips[0][1] if self._round_trips else None
        return Context(self.rates["up"].bps, self.rates["down"].bps, rtt_s)

    @property
    def spread(self) -> Spread:
        """How sure the rates are."""
        return Spread(self.rates["up"].spread, self.rates["down"].spread)

    def _forget(self, now_s: float) -> None:
        """Round trips that are too long ago; the last one stays for want of another."""
        while len(self._round_trips) > 1 and self._round_trips[0][0] < now_s - RTT_S:
            self._round_trips.popleft()
