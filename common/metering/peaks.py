"""Peak memory of windows, from gauges that keep their own peak; no thread, no clock.

With ``reset`` a gauge's peak begins anew with each window, and every window's peak is exact. Without it, the gauge's
peak says something only when it rises: the window in which memory is highest of all is exact, of the others what
samples and the windows' own ends saw is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.metering.gauges import Gauge
from common.metering.report import WindowMemory


@dataclass(eq=False)
class Watch:
    """An open window."""

    name: str
    start_s: float
    peaks: dict[str, int] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)
    """Gauges whose peak is this window's once it is above this."""


@dataclass
class _Books:
    count: int = 0
    seconds: float = 0.0
    peaks: dict[str, int] = field(default_factory=dict)


class Peaks:
    """The books of all windows."""

    def __init__(self, *, reset: bool) -> None:
        self.peaks: dict[str, int] = {}
        self._reset = reset
        self._open: list[Watch] = []
        self._books: dict[str, _Books] = {}

    def open(self, name: str, time_s: float, gauges: Sequence[Gauge]) -> Watch:
        """Begin a window; without gauges only what samples see is told of it."""
        self.look(gauges)
        watch = Watch(name, time_s)
        self._open.append(watch)
        for gauge in gauges:
            now, peak = gauge.look()
            if self._reset:
                gauge.reset()
                peak = gauge.look()[1]
                for other in self._open:
                    other.bases[gauge.name] = min(other.bases.get(gauge.name, peak), now)
            watch.bases[gauge.name] = peak
            watch.peaks[gauge.name] = now
        return watch

    def close(self, watch: Watch, time_s: float, gauges: Sequence[Gauge]) -> None:
        """End a window."""
        self.look(gauges)
        self._open.remove(watch)
        books = self._books.setdefault(watch.name, _Books())
        books.count += 1
        books.seconds += time_s - watch.start_s
        _raise(books.peaks, watch.peaks)

    def look(self, gauges: Sequence[Gauge]) -> None:
        """Enter what the gauges say now into all open windows."""
        for gauge in gauges:
            now, peak = gauge.look()
            _raise(self.peaks, {gauge.name: peak})
            for watch in self._open:
                base = watch.bases.get(gauge.name)
                _raise(watch.peaks, {gauge.name: peak if base is not None and peak > base else now})

    def see(self, name: str, nbytes: int) -> None:
        """Enter a sample into all open windows."""
        _raise(self.peaks, {name: nbytes})
        for watch in self._open:
            _raise(watch.peaks, {name: nbytes})

    def windows(self) -> dict[str, WindowMemory]:
        """By name."""
        return {
            name: WindowMemory(
                books.count,
                books.seconds,
                max(books.peaks.get("resident", 0), books.peaks.get("tree", 0)),
                books.peaks.get("cuda_allocated"),
                books.peaks.get("cuda_reserved"),
            )
            for name, books in self._books.items()
        }


def _raise(peaks: dict[str, int], seen: dict[str, int]) -> None:
    for name, nbytes in seen.items():
        peaks[name] = max(peaks.get(name, 0), nbytes)
