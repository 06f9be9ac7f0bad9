"""The energy meter: reads its sources in a thread, keeps their books, and outlives sensors that die."""

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.metering.ledger import Ledger
from common.metering.report import EnergyReport, Event, RailEnergy
from common.metering.sampler import LARGEST_SHARE, REAL, Sampler, Timing
from common.metering.source import Reading, SensorError, Source, reason

logger = logging.getLogger(__name__)

INTERVAL_S = 0.05


@dataclass(frozen=True)
class EnergySample:
    """All rails at one moment."""

    time_s: float
    """Since the meter's start."""
    watts: Mapping[str, float | None]
    """None: lost, or a counter's first reading."""
    joules: Mapping[str, float]
    """Since the meter's start."""


class EnergyMeter:
    """Measures the rails of its sources; see ``Meter``.

    Args:
        sources: from ``detect``; the meter closes them.
        interval_s: between two samples.
        on_sample: gets every sample, in the sampling thread.
        largest_share: of a core that sampling may take, see ``Sampler``.
        timing: for tests.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        interval_s: float = INTERVAL_S,
        *,
        on_sample: Callable[[EnergySample], None] | None = None,
        largest_share: float = LARGEST_SHARE,
        timing: Timing = REAL,
    ) -> None:
        self.rails = tuple(rail for source in sources for rail in source.rails)
        self._sources, self._on_sample, self._clock = tuple(sources), on_sample, timing.clock
        self._ledger = Ledger(self.rails)
        self._lock = threading.Lock()
        self._sampler = Sampler(self._take, interval_s, largest_share=largest_share, timing=timing)
        self._faults: dict[str, str] = {}
        self._lost: set[str] = set()
        self._events: list[Event] = []
        self._start_s = 0.0
        self._report: EnergyReport | None = None

    def start(self) -> None:
        self._start_s = self._clock()
        self._sampler.start()

    def stop(self) -> EnergyReport:
        if self._report is None:
            self._sampler.stop()
            self._report = self.read()
            for source in self._sources:
                source.close()
        return self._report

    def read(self) -> EnergyReport:
        if self._report is not None:
            return self._report
        with self._lock:
            rails = tuple(
                RailEnergy(rail.name, rail.role, rail.in_total, each.joules, each.measured_s, each.peak_w, fault)
                for rail in self.rails
                for each, fault in [(self._ledger.accounts[rail.name], self._faults.get(rail.name))]
            )
            return EnergyReport(
                sources=tuple(source.name for source in self._sources),
                elapsed_s=self._clock() - self._start_s,
                total_j=math.fsum(rail.joules for rail in rails if rail.in_total),
                peak_w=self._ledger.peak_w,
                rails=rails,
                windows=self._ledger.windows(),
                events=tuple(self._events),
                cost=self._sampler.cost(),
                failure=self._sampler.failure,
            )

    def total_j(self) -> float | None:
        """`EnergyReport.total_j` so far, for whoever asks often."""
        if self._report is not None:
            return self._report.total_j
        with self._lock:
            return math.fsum(self._ledger.accounts[rail.name].joules for rail in self.rails if rail.in_total)

    @contextlib.contextmanager
    def window(self, name: str) -> Iterator[None]:
        with self._lock:
            window = self._ledger.open(name, self._clock())
        try:
            yield
        finally:
            with self._lock:
                self._ledger.close(window, self._clock())

    def mark(self, name: str, at_s: float | None = None) -> None:
        self._events.append(Event((self._clock() if at_s is None else at_s) - self._start_s, name))

    def _take(self) -> float:
        child_cpu_s = 0.0
        for source in self._sources:
            before_s = self._clock()
            reading = _read(source)
            with self._lock:
                moment_s = (before_s + self._clock()) / 2 if reading.at_s is None else reading.at_s
                self._ledger.add(moment_s, reading.values)
                self._ledger.lose(reading.faults)
            self._note(source, reading)
            child_cpu_s += reading.child_cpu_s
        with self._lock:
            self._ledger.settle()
        if self._on_sample is not None:
            self._on_sample(self._sample())
        return child_cpu_s

    def _sample(self) -> EnergySample:
        accounts = self._ledger.accounts
        return EnergySample(
            self._clock() - self._start_s,
            {name: account.watts for name, account in accounts.items()},
            {name: account.joules for name, account in accounts.items()},
        )

    def _note(self, source: Source, reading: Reading) -> None:
        """Tell of a rail when it is lost and when it is back, not at every sample between."""
        for rail, why in reading.faults.items():
            if rail not in self._lost:
                self._lost.add(rail)
                self._faults[rail] = f"lost after {self._clock() - self._start_s:.2f} s: {why}"
                logger.warning("%s: rail %s %s; the other rails go on", source.name, rail, self._faults[rail])
        for rail in self._lost.intersection(reading.values):
            self._lost.discard(rail)
            self._faults[rail] += f"; back after {self._clock() - self._start_s:.2f} s"
            logger.warning("%s: rail %s is back", source.name, rail)


def _read(source: Source) -> Reading:
    try:
        reading = source.read()
    except SensorError as error:
        why = str(error)
    except OSError as error:
        why = reason(error)
    else:
        return reading
    return Reading({}, {rail.name: why for rail in source.rails})
