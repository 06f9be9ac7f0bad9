"""The table of a memory measurement: each sample a row, on disk while the measurement goes on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from common.metering.memory import MemorySample

COLUMNS = ("time_s", "resident_bytes", "processes", "proportional_bytes", "host_used_bytes", "events")


class MemoryTable:
    """A CSV file; ``proportional_bytes`` is empty where it was not read, which is most often."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)

    def add(self, sample: MemorySample, events: Sequence[str]) -> None:
        """Write a row."""
        shared = "" if sample.proportional_bytes is None else sample.proportional_bytes
        self._writer.writerow(
            [
                f"{sample.time_s:.4f}",
                sample.resident_bytes,
                sample.processes,
                shared,
                sample.host_used_bytes,
                "; ".join(events),
            ]
        )

    def __enter__(self) -> "MemoryTable":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


@dataclass(frozen=True)
class MemoryColumns:
    """A table as it was read back."""

    times_s: list[float]
    resident_bytes: list[int]
    proportional: list[tuple[float, int]]
    """Time and bytes, where it was read."""
    host_used_bytes: list[int]


def read_table(path: Path) -> MemoryColumns:
    """A table's columns."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return MemoryColumns(
        [float(row["time_s"]) for row in rows],
        [int(row["resident_bytes"]) for row in rows],
        [(float(row["time_s"]), int(row["proportional_bytes"])) for row in rows if row["proportional_bytes"]],
        [int(row["host_used_bytes"]) for row in rows],
    )
