"""What both programs do with their files: refuse what cannot be written, and write samples with their events."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.errors import UsageError
from common.metering.meter import Meter
from quantify.target import Target

FIGURES = (".png", ".pdf")
Sample_contra = TypeVar("Sample_contra", contravariant=True)


class Table(Protocol[Sample_contra]):
    """Takes samples."""

    def add(self, sample: Sample_contra, events: Sequence[str]) -> None:
        """Write a row; ``events`` came since the row before."""


def check_outputs(interval_ms: float, out: Path, *others: Path | None) -> None:
    """Refuse, before anything runs, what could not be carried out after it.

    Raises:
        UsageError: an interval that is none, a file that cannot be written, a figure of another kind.
    """
    if not 0 < interval_ms < float("inf"):
        raise UsageError(f"--interval_ms is {interval_ms:g}; it must be above 0")
    *_, plot = others
    if plot is not None and plot.suffix.lower() not in FIGURES:
        raise UsageError(f"--plot {plot}: give a name that ends in {' or '.join(FIGURES)}")
    for path in (out, *others):
        try:
            if path is not None:
                path.touch()
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}; name another file") from None


def follow(table: Table[Any], meter: Meter[Any], sample: object, measured: Target) -> None:
    """Write a sample, with the events that the command named since the last one."""
    events = measured.marks.new() if measured.marks is not None else []
    for name, at_s in events:
        meter.mark(name, at_s)
    table.add(sample, [name for name, _ in events])
