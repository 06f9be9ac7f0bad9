"""A counter of energy, by the sensors of the machine where it has any (docs/metering.md)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.metering.detect import Detected, detect
from common.metering.energy import EnergyMeter
from common.profiling.counting import Counter

_INTERVAL_S = 0.02


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
