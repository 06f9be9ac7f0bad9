"""Energy of a piece of work, by the sensors of the machine where it has any (docs/metering.md)."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from common.metering.detect import Detected, detect
from common.metering.energy import EnergyMeter

_INTERVAL_S = 0.02
_LEAST_S = 1.0  # of work for one figure, so that a sample more or less is 2 % of it
_MOST_REPEATS = 100_000


class Counter(Protocol):
    """Counts energy."""

    @property
    def name(self) -> str:
        """What it reads."""

    def read_mj(self) -> float:
        """Millijoules since some beginning, never less than before; NaN where no sensor answers any more."""


class Sampled:
    """The energy of a running meter, as of its last sample."""

    def __init__(self, meter: EnergyMeter, name: str) -> None:
        self.name = name
        self._meter = meter

    def read_mj(self) -> float:
        joules = self._meter.read().total_j
        return math.nan if joules is None else 1e3 * joules


@contextmanager
def energy_counter(find: Callable[[], Detected] = detect) -> Iterator[Counter | None]:
    """The counter of this machine; None where it has no sensor that this user may read."""
    sources = find().sources
    if not sources:
        yield None
        return
    meter = EnergyMeter(sources, _INTERVAL_S)
    meter.start()
    try:
        yield Sampled(meter, ", ".join(source.name for source in sources))
    finally:
        meter.stop()


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
