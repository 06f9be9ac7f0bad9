"""A model instead of a meter: so many watts when idle, so many when all cores are busy, weighted by their use."""

import time
from collections.abc import Callable

import psutil

from common.errors import UsageError
from common.metering.rails import Rail
from common.metering.source import Reading, SensorError


class ConstantPower:
    """Energy of the whole machine as two numbers of its user say; no measurement, and named so wherever it shows.

    Args:
        idle_w: with no core busy.
        busy_w: with all cores busy.
        busy_s: seconds that cores were busy so far, summed over them; for tests.
        clock: seconds; for tests.
        cores: how many; for tests.
    """

    def __init__(
        self,
        idle_w: float,
        busy_w: float,
        *,
        busy_s: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        cores: int | None = None,
    ) -> None:
        if not 0 <= idle_w <= busy_w:
            raise SensorError(f"{idle_w:g} W idle and {busy_w:g} W busy: 0 <= idle <= busy must hold")
        self.name = f"model, not measured: {idle_w:g} W idle, {busy_w:g} W busy"
        self.rails = (Rail("model", "machine", counter=True),)
        self._idle_w, self._busy_w = idle_w, busy_w
        self._busy_s, self._clock = busy_s or _busy_s, clock
        self._cores = cores or psutil.cpu_count() or 1
        self._last_s, self._last_busy_s = self._clock(), self._busy_s()
        self._joules = self._owed_s = 0.0

    def read(self) -> Reading:
        now_s, busy_s = self._clock(), self._busy_s()
        elapsed_s = now_s - self._last_s
        # The kernel books busy time in ticks of 10 ms; what is more than fits into the time counts with the next.
        self._owed_s += busy_s - self._last_busy_s
        used_s = min(max(self._owed_s, 0.0), elapsed_s * self._cores)
        self._owed_s -= used_s
        self._joules += self._idle_w * elapsed_s + (self._busy_w - self._idle_w) * used_s / self._cores
        self._last_s, self._last_busy_s = now_s, busy_s
        return Reading({"model": self._joules}, at_s=now_s)

    def close(self) -> None: ...


def parse_watts(text: str) -> tuple[float, float]:
    """Idle and busy watts from ``IDLE,BUSY``.

    Raises:
        UsageError: they are none.
    """
    try:
        idle_w, busy_w = (float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--watts {text}: give two numbers, idle and busy, as in --watts 5,15") from None
    if not 0 <= idle_w <= busy_w < float("inf"):
        raise UsageError(f"--watts {text}: 0 <= idle <= busy must hold")
    return idle_w, busy_w


def _busy_s() -> float:
    """Without waiting for devices, and without what a hypervisor gave to others."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")))
