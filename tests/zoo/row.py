"""What is known of a model of the zoo: a row of its table, and the file of all rows."""

import csv
import os
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

EXACT, CLOSE, DIFFERS = "exact", "close", "differs"
_LONGEST = 500


@dataclass(frozen=True)
class Row:
    """A model and what its check found; empty where the check did not come so far."""

    suite: str
    model: str
    front_end: str = ""
    trace_s: str = ""
    points: str = ""
    narrowest_bytes: str = ""
    """Of the cuts between input and output."""
    widest_bytes: str = ""
    unsafe_points: str = ""
    """Where training must not be cut."""
    evaluation: str = ""
    """``exact`` where the outputs are equal bit for bit at all points that were checked."""
    evaluation_cuts: str = ""
    """Which points those are."""
    training: str = ""
    """``exact`` where loss, buffers and gradients are equal bit for bit; ``close`` where gradients nearly are."""
    training_cuts: str = ""
    gradient_error: str = ""
    """The worst of all cuts, relative to the largest element of its parameter's gradient."""
    double_error: str = ""
    """The same in float64, where that decides whether it is rounding."""
    check_s: str = ""
    peak_mib: str = ""
    failure: str = ""
    """Why it did not pass, in a line."""
    refused: str = ""
    """Why front ends before this one did not serve."""

    @property
    def passed(self) -> bool:
        """Whether all that was compared is equal."""
        return self.evaluation == EXACT and self.training in (EXACT, CLOSE) and not self.failure

    @property
    def key(self) -> tuple[str, str]:
        """The model is known by its suite and its name."""
        return self.suite, self.model


COLUMNS = tuple(field.name for field in fields(Row))


def one_line(text: str) -> str:
    """A message for a cell of a table, without the folders of this machine."""
    words = " ".join(text.split())
    words = re.sub(r"/[^\s:]*/site-packages/", "", words).replace(f"{Path.cwd()}/", "")
    if len(words) <= _LONGEST:
        return words
    return f"{words[: _LONGEST // 2]} … {words[-_LONGEST // 2 :]}"  # the last of several reasons counts most


def read_rows(path: Path) -> dict[tuple[str, str], Row]:
    """Rows of a file by suite and model; none where there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [Row(**{name: record.get(name) or "" for name in COLUMNS}) for record in csv.DictReader(file)]
    return {row.key: row for row in rows}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows, so that the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(astuple(row) for row in rows)
    os.replace(draft, path)
