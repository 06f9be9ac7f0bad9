"""Files that figures are made of, read with one-line errors that name the file and the way out."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]


def read_text(path: Path, way_out: str) -> str:
    """The text of a file.

    Raises:
        UsageError: there is none; ``way_out`` says how it is made.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text; {way_out}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; {way_out}") from None


def read_object(path: Path, way_out: str) -> dict[str, Any]:
    """The JSON object that a file holds."""
    try:
        found = json.loads(read_text(path, way_out))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {str(error)[:80]}; {way_out}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON object; {way_out}")
    return found


def read_objects(path: Path, way_out: str) -> list[dict[str, Any]]:
    """The JSON objects of a file's lines. A last line that a running program has not finished is left out."""
    text = read_text(path, way_out)
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError
        except (ValueError, RecursionError):
            if number == len(lines) and not text.endswith("\n"):
                break
            raise UsageError(f"{path}, line {number}, is no JSON object; {way_out}") from None
        found.append(row)
    return found


def read_rows(path: Path, way_out: str) -> list[dict[str, str]]:
    """The rows of a CSV table, by the names in its header."""
    reader = csv.DictReader(io.StringIO(read_text(path, way_out), newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}, is no CSV: {error}; {way_out}") from None
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UsageError(f"{path}, line {number}, has not as many cells as the header; {way_out}")
    return rows


def number(value: object, what: str, path: Path, way_out: str) -> float:
    """A number; NaN for None and for an empty cell."""
    if value is None or value == "":
        return math.nan
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{path}: {what} is {str(value)[:40]!r}, no number; {way_out}")


def columns(rows: Sequence[Mapping[str, object]], names: Sequence[str], path: Path, way_out: str) -> Columns:
    """Some columns of a table as numbers.

    Raises:
        UsageError: no rows, a column that is missing, a cell that is no number.
    """
    if not rows:
        raise UsageError(f"{path} has no rows; {way_out}")
    if missing := [name for name in names if name not in rows[0]]:
        raise UsageError(f"{path} has no {missing[0]}; {way_out}")
    return {
        name: np.array([number(row.get(name), f"{name} of row {i}", path, way_out) for i, row in enumerate(rows, 1)])
        for name in names
    }
