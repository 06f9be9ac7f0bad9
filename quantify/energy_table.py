"""The table of an energy measurement: each sample a row, on disk while the measurement goes on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from common.metering.energy import EnergySample
from common.metering.rails import Rail


class EnergyTable:
    """A CSV file: ``time_s``, ``RAIL_w`` (watts; empty where lost), ``RAIL_j`` (joules so far), ``events``."""

    def __init__(self, path: Path, rails: Sequence[Rail]) -> None:
        self._names = [rail.name for rail in rails]
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        watts, joules = ([f"{name}_{unit}" for name in self._names] for unit in "wj")
        self._writer.writerow(["time_s", *watts, *joules, "events"])

    def add(self, sample: EnergySample, events: Sequence[str]) -> None:
        """Write a row."""
        watts = [sample.watts[name] for name in self._names]
        self._writer.writerow(
            [
                f"{sample.time_s:.4f}",
                *("" if each is None else f"{each:.4f}" for each in watts),
                *(f"{sample.joules[name]:.5f}" for name in self._names),
                "; ".join(events),
            ]
        )

    def __enter__(self) -> "EnergyTable":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


@dataclass(frozen=True)
class EnergyColumns:
    """A table as it was read back."""

    times_s: list[float]
    watts: dict[str, list[float]] = field(default_factory=dict)
    """By rail; NaN where lost."""
    joules: dict[str, list[float]] = field(default_factory=dict)


def read_table(path: Path) -> EnergyColumns:
    """A table's columns."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    watts, joules = (
        {name[:-2]: [float(row[name] or "nan") for row in rows] for name in names if name.endswith(unit)}
        for unit in ("_w", "_j")
    )
    return EnergyColumns([float(row["time_s"]) for row in rows], watts, joules)
