"""The log of a run's decisions, ``plans.jsonl`` in its folder: a JSON object in a line for each time that it decided.

A decision is logged whether it changed the plan or not: what it knew (`Context`), what it chose (`Choice`), what it
predicts of the choice, and how long steps took under the plan before it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from common.errors import UsageError
from common.records import finite

FILE = "plans.jsonl"


@dataclass(frozen=True)
class Context:
    """The link as it was estimated when the run decided; None: not measured yet."""

    up_bps: float | None
    """Rate from edge to cloud, in bit/s."""
    down_bps: float | None
    """Rate from cloud to edge, in bit/s."""
    rtt_s: float | None
    """Round-trip time, in seconds."""


@dataclass(frozen=True)
class Choice:
    """The plan from this decision on."""

    cut: int
    """Index of the cut point."""
    compress_up: str
    """Codec of what goes up: activations, or gradients of an edge with the tail."""
    compress_down: str
    """Codec of what comes down."""
    stale_it: int
    """K."""


@dataclass(frozen=True)
class Decision:
    """A line of the log."""

    step: int
    """The first step of the plan."""
    wall_s: float
    """Time since the run's start, on the clock of ``metrics.jsonl``."""
    context: Context
    plan: Choice
    predicted_step_s: float | None
    """A step of this plan in this context, as predicted."""
    measured_step_s: float | None
    """Mean step since the decision before this one, so under the plan of that one; None: no steps since."""
    reason: str
    """Why this plan, in words."""


class PlanLog:
    """Writes decisions; each is on disk at once. A context manager.

    Args:
        folder: of the run.
        more: add to the decisions that are there.
    """

    def __init__(self, folder: Path, *, more: bool = False) -> None:
        self._file: IO[str] = (folder / FILE).open("a" if more else "w", encoding="utf-8")

    def add(self, decision: Decision) -> None:
        """Write a line."""
        self._file.write(json.dumps(finite(asdict(decision))) + "\n")
        self._file.flush()

    def __enter__(self) -> "PlanLog":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()


def read_plans(path: Path) -> list[Decision]:
    """The decisions of a log, in order. A last line that a running program has not finished is left out.

    Raises:
        UsageError: no such file, none in it, or a line that is no decision; it names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path} cannot be read: {reason}; only runs that plan while they train write it") from None
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(msgspec.json.decode(line, type=Decision))
        except msgspec.DecodeError as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise UsageError(f"{path}, line {number}, is no decision: {error}; a run writes a right one") from None
    if not found:
        raise UsageError(f"{path} has no decisions; the run has not planned yet")
    return found
