"""A source reads the rails of one kind of sensor; the meter asks it again and again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.errors import TandemError
from common.metering.rails import Rail


class SensorError(TandemError):
    """A sensor that is not there, or that no longer answers: which, why, and the way out."""


@dataclass(frozen=True)
class Reading:
    """What a source's rails say at one moment."""

    values: Mapping[str, float]
    """By rail: watts, or joules where the rail is a counter. A rail that could not be read is missing."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """By rail that could not be read: why."""
    child_cpu_s: float = 0.0
    """CPU seconds of a program that was started for this reading."""
    at_s: float | None = None
    """Its moment on ``time.perf_counter``, where the source knows it; else the middle of its reading is taken."""


class Source(Protocol):
    """The rails of one kind of sensor.

    Opening one (its constructor or factory) raises ``SensorError`` where the sensor is missing.
    """

    @property
    def name(self) -> str:
        """Where it reads, for people."""

    @property
    def rails(self) -> tuple[Rail, ...]:
        """All that it had when it was opened."""

    def read(self) -> Reading:
        """Read all rails now.

        Raises:
            SensorError: none can be read.
        """

    def close(self) -> None:
        """Let go of what it holds; reading ends."""


def reason(error: OSError) -> str:
    """Why a file could not be read, with its name."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
