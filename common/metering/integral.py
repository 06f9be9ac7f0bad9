"""Energy between two readings of a rail: the trapezoid of watts, or what a counter gained, wrapped or not."""

from dataclasses import dataclass

from common.metering.rails import Rail


@dataclass(frozen=True)
class Segment:
    """A rail's power between two readings, as a straight line; energy is the area under it."""

    start_s: float
    end_s: float
    start_w: float
    end_w: float

    @property
    def joules(self) -> float:
        """Energy of the whole segment."""
        return (self.start_w + self.end_w) / 2 * (self.end_s - self.start_s)

    def joules_between(self, start_s: float, end_s: float) -> float:
        """Energy of the part that lies within these times."""
        start_s, end_s = max(start_s, self.start_s), min(end_s, self.end_s)
        if end_s <= start_s:
            return 0.0
        return (self._watts(start_s) + self._watts(end_s)) / 2 * (end_s - start_s)

    def _watts(self, time_s: float) -> float:
        share = (time_s - self.start_s) / (self.end_s - self.start_s)
        return self.start_w + share * (self.end_w - self.start_w)


def segment(rail: Rail, start_s: float, before: float, end_s: float, after: float) -> Segment | None:
    """The segment between two readings; None where a counter was set back and tells nothing.

    A counter's gain is spread evenly. One that fell went past ``range_j``: at 50 ms none does so twice, as the
    smallest ranges in use take minutes.
    """
    if end_s <= start_s:
        return None
    if not rail.counter:
        return Segment(start_s, end_s, before, after)
    gained = after - before
    if gained < 0 and rail.range_j is not None:
        gained += rail.range_j
    if gained < 0:
        return None
    watts = gained / (end_s - start_s)
    return Segment(start_s, end_s, watts, watts)
