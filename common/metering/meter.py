"""The one interface of all meters, and the meter of a machine that has none."""

import contextlib
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from common.metering.report import EnergyReport

Report_co = TypeVar("Report_co", covariant=True)


class Meter(Protocol[Report_co]):
    """Measures from ``start`` to ``stop``; windows say what share of it belongs to a named stage."""

    def start(self) -> None:
        """Begin; once only."""

    def stop(self) -> Report_co:
        """End, and tell all; a second call tells the same."""

    def read(self) -> Report_co:
        """What there is so far."""

    def window(self, name: str) -> AbstractContextManager[None]:
        """Measure a stage apart, over all its windows; from any thread, nested or not.

        On a GPU, synchronize before a window ends: work that is only queued runs in the next one.
        """

    def mark(self, name: str, at_s: float | None = None) -> None:
        """Name this moment, or one past of ``time.perf_counter``, for timelines."""


class NullMeter:
    """Stands where nothing can be measured; costs nothing and tells nothing."""

    def start(self) -> None: ...

    def stop(self) -> EnergyReport:
        return EnergyReport()

    def read(self) -> EnergyReport:
        return EnergyReport()

    def total_j(self) -> None:
        return None

    def window(self, name: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def mark(self, name: str, at_s: float | None = None) -> None: ...
