"""The memory meter: a process, its children and the machine, sampled in a thread, with the kernel's own peaks."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from common.metering.gauges import Gauge, ResidentGauge, cuda_gauges, host_used, proportional, resident
from common.metering.peaks import Peaks
from common.metering.processes import ProcessTree
from common.metering.report import Event, MemoryReport
from common.metering.sampler import LARGEST_SHARE, REAL, Sampler, Timing

INTERVAL_S = 0.05
_HOST_EVERY_S = 0.1
"""The machine's memory is that of many programs, and slower to change than one's."""
_PROPORTIONAL_SHARE = 0.002
"""Of one core, for the kernel's walk through all pages: it is read once there is time for it, then ever again."""
_PROPORTIONAL_S_PER_MIB = 10e-6
"""What that walk takes on a small machine."""
_WINDOW_SHARE = 0.003
"""Of the time, for looks at the beginning and end of windows."""
_BEFOREHAND_S = 0.005
"""For such looks at once, so that a short run has them too."""


@dataclass(frozen=True)
class MemorySample:
    """Memory at one moment."""

    time_s: float
    """Since the meter's start."""
    resident_bytes: int
    """Of the process and its children; pages that they share are counted for each."""
    processes: int
    proportional_bytes: int | None
    """The same with shared pages divided; None: not read this time."""
    host_used_bytes: int
    """Of the whole machine."""
    cuda_allocated_bytes: int | None = None
    cuda_reserved_bytes: int | None = None


class MemoryMeter:
    """Measures the memory of a process and its children; see ``Meter``.

    Args:
        pid: of the process; None: this one, whose windows and CUDA memory are then measured as well.
        interval_s: between two samples.
        on_sample: gets every sample, in the sampling thread.
        reset_peaks: exact peaks for every window, see ``ResidentGauge`` and ``Peaks`` for what that changes.
        largest_share: of a core that sampling may take, see ``Sampler``.
        timing: for tests.
    """

    def __init__(
        self,
        pid: int | None = None,
        interval_s: float = INTERVAL_S,
        *,
        on_sample: Callable[[MemorySample], None] | None = None,
        reset_peaks: bool = False,
        largest_share: float = LARGEST_SHARE,
        timing: Timing = REAL,
    ) -> None:
        self._own = pid is None or pid == os.getpid()
        self._tree = ProcessTree(os.getpid() if pid is None else pid)
        self._resident = ResidentGauge(os.getpid())
        self._on_sample, self._clock = on_sample, timing.clock
        self._peaks = Peaks(reset=reset_peaks)
        self._sampler = Sampler(self._take, interval_s, largest_share=largest_share, timing=timing)
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._start_s = 0.0
        self._proportional_spent_s = self._windows_spent_s = 0.0
        self._host_used_bytes, self._host_due_s = 0, 0.0
        self._peak: MemorySample | None = None
        self._report: MemoryReport | None = None

    def start(self) -> None:
        self._start_s = self._clock()
        self._sampler.start()

    def stop(self) -> MemoryReport:
        if self._report is None:
            self._sampler.stop()
            self._report = self.read()
        return self._report

    def read(self) -> MemoryReport:
        if self._report is not None:
            return self._report
        with self._lock:
            peaks, peak = self._peaks.peaks, self._peak
            return MemoryReport(
                elapsed_s=self._clock() - self._start_s,
                peak_resident_bytes=peak.resident_bytes if peak else 0,
                peak_resident_s=peak.time_s if peak else 0.0,
                peak_processes=peak.processes if peak else 0,
                peak_process_bytes=max(peaks.get("process", 0), peaks.get("resident", 0)),
                peak_proportional_bytes=peaks.get("proportional"),
                peak_host_bytes=peaks.get("host", 0),
                host_bytes=int(psutil.virtual_memory().total),
                peak_cuda_allocated_bytes=peaks.get("cuda_allocated"),
                peak_cuda_reserved_bytes=peaks.get("cuda_reserved"),
                windows=self._peaks.windows(),
                events=tuple(self._events),
                cost=self._sampler.cost(),
                failure=self._sampler.failure,
            )

    @contextlib.contextmanager
    def window(self, name: str) -> Iterator[None]:
        with self._lock, self._counted():
            watch = self._peaks.open(name, self._clock(), self._gauges())
        try:
            yield
        finally:
            with self._lock, self._counted():
                self._peaks.close(watch, self._clock(), self._gauges())

    def mark(self, name: str, at_s: float | None = None) -> None:
        self._events.append(Event((self._clock() if at_s is None else at_s) - self._start_s, name))

    def _take(self) -> float:
        gauges = self._all_gauges()
        pids = self._tree.pids()
        looks = [look for pid in pids if (look := resident(pid))[0]]
        sample = self._sample(gauges, pids, [now for now, _ in looks])
        with self._lock:
            self._peaks.look(gauges)
            self._peaks.see("process", max((peak for _, peak in looks), default=0))
            self._peaks.see("tree", sample.resident_bytes)
            self._peaks.see("host", sample.host_used_bytes)
            if sample.proportional_bytes is not None:
                self._peaks.see("proportional", sample.proportional_bytes)
            if self._peak is None or sample.resident_bytes > self._peak.resident_bytes:
                self._peak = sample
        if self._on_sample is not None:
            self._on_sample(sample)
        return 0.0

    def _sample(self, gauges: list[Gauge], pids: list[int], residents: list[int]) -> MemorySample:
        time_s = self._clock() - self._start_s
        if time_s >= self._host_due_s:
            self._host_used_bytes, self._host_due_s = host_used(), time_s + _HOST_EVERY_S
        cuda = {gauge.name: gauge.look()[0] for gauge in gauges if gauge is not self._resident}
        return MemorySample(
            time_s,
            sum(residents),
            len(residents),
            self._proportional(pids, time_s, sum(residents)),
            self._host_used_bytes,
            cuda.get("cuda_allocated"),
            cuda.get("cuda_reserved"),
        )

    def _proportional(self, pids: list[int], time_s: float, resident_bytes: int) -> int | None:
        expected_s = resident_bytes / 2**20 * _PROPORTIONAL_S_PER_MIB
        if self._proportional_spent_s + expected_s > _PROPORTIONAL_SHARE * time_s:
            return None
        before_s = time.thread_time()
        found = [each for pid in pids if (each := proportional(pid)) is not None]
        self._proportional_spent_s += time.thread_time() - before_s
        return sum(found) if found else None

    def _all_gauges(self) -> list[Gauge]:
        return [self._resident, *cuda_gauges()] if self._own else []

    def _gauges(self) -> list[Gauge]:
        """For a window's beginning or end: all, or none while such looks take too much of the time."""
        spare = self._windows_spent_s <= _BEFOREHAND_S + _WINDOW_SHARE * (self._clock() - self._start_s)
        return self._all_gauges() if spare else []

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        before_s = self._clock()
        yield
        self._windows_spent_s += self._clock() - before_s
