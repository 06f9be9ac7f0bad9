"""Rails that are files of /sys: each read on its own, so that one that vanishes takes no other with it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.metering.rails import Rail
from common.metering.source import Reading, SensorError, reason

SYS = Path("/sys")


def read_text(path: Path | str) -> str:
    """A small file's content, stripped.

    Raises:
        OSError: it cannot be read.
    """
    # Opened anew each time: of a device that was unbound, an open descriptor may go on giving old values.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="replace").strip()
    except OSError as error:
        error.filename = str(path)  # os.read knows a number only
        raise
    finally:
        os.close(descriptor)


def read_number(path: Path | str) -> float:
    """A file's number.

    Raises:
        OSError: it cannot be read.
        SensorError: it holds no number.
    """
    text = read_text(path)
    try:
        return float(text)
    except ValueError:
        raise SensorError(f"{path}: {text!r} is no number") from None


def text_or(path: Path, default: str) -> str:
    """A file's content, or ``default`` where there is none that can be read."""
    try:
        return read_text(path) or default
    except OSError:
        return default


@dataclass(frozen=True)
class RailFiles:
    """A source whose rails are read one by one."""

    name: str
    readers: dict[Rail, Callable[[], float]]

    @property
    def rails(self) -> tuple[Rail, ...]:
        return tuple(self.readers)

    def read(self) -> Reading:
        values, faults = {}, {}
        for rail, read in self.readers.items():
            try:
                values[rail.name] = read()
            except OSError as error:
                faults[rail.name] = reason(error)
            except SensorError as error:
                faults[rail.name] = str(error)
        return Reading(values, faults)

    def close(self) -> None: ...
