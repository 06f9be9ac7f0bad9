"""Energy of a piece of work, by whatever counts it."""

import time
from collections.abc import Callable
from typing import Protocol

_LEAST_S = 1.0  # of work for one figure, so that a sample more or less is 2 % of it
_MOST_REPEATS = 100_000


class Counter(Protocol):
    """Counts energy."""

    @property
    def name(self) -> str:
        """What it reads."""

    def read_mj(self) -> float:
        """Millijoules since some beginning, never less than before; NaN where no sensor answers any more."""


def energy_mj(
    counter: Counter,
    work: Callable[[], None],
    least_s: float = _LEAST_S,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Millijoules of one round of ``work``, all that the sensors see included; it is repeated for ``least_s``."""
    begun_s, begun_mj, repeats = clock(), counter.read_mj(), 0
    while not repeats or (clock() - begun_s < least_s and repeats < _MOST_REPEATS):
        work()
        repeats += 1
    return (counter.read_mj() - begun_mj) / repeats
