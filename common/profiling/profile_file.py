"""A measured profile as files: a CSV table with units in its header, and a JSON file beside it.

NAME.csv has a row for each block and the cut behind it (docs/planning.md has the columns), NAME.json says what was
measured where.
"""

import csv
import io
import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from common.errors import UsageError
from common.profiling.rows import About, BlockRow, CodecRow, Measured

FORMAT = "tandem-profile-1"
_PLAIN = [each.name for each in fields(BlockRow) if each.name != "codecs"]
_WORDS = ("name", "unsafe")
_PEAK = "head_peak_bytes"
_CODEC = [each.name for each in fields(CodecRow)]
_MOST_CUTS = 100_000


def save_profile(path: Path, measured: Measured) -> None:
    """Write ``path`` (CSV) and the JSON file of the same name.

    Raises:
        UsageError: they cannot be written.
    """
    table, about = dumps(measured)
    try:
        path.write_text(table, encoding="utf-8", newline="")
        path.with_suffix(".json").write_text(about, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the profile {path} cannot be written: {error.strerror}") from None


def load_profile(path: Path) -> Measured:
    """Read a profile that `save_profile` wrote.

    Raises:
        UsageError: no such files, or others; it names the line.
    """
    beside = path.with_suffix(".json")
    try:
        table, about = path.read_text(encoding="utf-8"), beside.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"the profile {path} with {beside.name} beside it cannot be read: {reason}") from None
    try:
        return loads(table, about)
    except ValueError as error:
        raise UsageError(f"{path} is no profile: {error}; make one with python -m common.profiling") from None


def dumps(measured: Measured) -> tuple[str, str]:
    """The table and what it is about, as texts; they can be sent as well."""
    names = list(dict.fromkeys(name for row in measured.rows for name in row.codecs))
    peaks = measured.profile().head_peak_bytes
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_PLAIN, _PEAK, *(f"{column}[{name}]" for name in names for column in _CODEC)])
    for row, peak in zip(measured.rows, peaks, strict=True):
        codecs = [getattr(row.codecs.get(name, CodecRow()), column) for name in names for column in _CODEC]
        writer.writerow(map(_cell, [*(getattr(row, name) for name in _PLAIN), float(peak), *codecs]))
    return file.getvalue(), json.dumps({"format": FORMAT, **asdict(measured.about)}, indent=2) + "\n"


def loads(table: str, about: str) -> Measured:
    """A profile from its two texts.

    Raises:
        ValueError: they are none.
    """
    rows = list(csv.DictReader(io.StringIO(table, newline=""), strict=True))
    if not 2 <= len(rows) <= _MOST_CUTS:
        raise ValueError(f"a table of {len(rows)} rows; it has one for the input and one for each block")
    if missing := [name for name in _PLAIN if name not in rows[0]]:
        raise ValueError(f"its header has no column {missing[0]}")
    read = tuple(_row(row, number) for number, row in enumerate(rows, start=2))
    cuts = [row.cut for row in read]
    if cuts[0] != 0 or cuts != sorted(set(cuts)):
        raise ValueError("its cuts do not go up from 0")
    if "none" not in read[0].codecs:
        raise ValueError("its header has no column activation_bytes[none]")
    return Measured(_about(about), read)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}" if value != int(value) else int(value)
    return value


def _row(cells: dict[str, str], line: int) -> BlockRow:
    if None in cells or None in cells.values():
        raise ValueError(f"line {line} has not as many cells as the header")
    columns = [name for name in cells if name.startswith("activation_bytes[") and name.endswith("]")]
    specs = [name.removeprefix("activation_bytes[").removesuffix("]") for name in columns]
    values: dict[str, Any] = {name: cells[name] for name in _WORDS}
    for name, kind in get_type_hints(BlockRow).items():
        if kind in (int, float):
            values[name] = kind(_number(cells, name, line, empty=name == "energy_mj"))
    codecs = {
        spec: CodecRow(*(_number(cells, f"{column}[{spec}]", line, empty=True) for column in _CODEC)) for spec in specs
    }
    return BlockRow(**values, codecs=codecs)


def _number(cells: dict[str, str], name: str, line: int, *, empty: bool) -> float:
    text = cells.get(name, "")
    if not text and empty:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"line {line}: {name} is {text[:40]!r}, no number") from None
    if not 0 <= value < math.inf:
        raise ValueError(f"line {line}: {name} is {value:g}; it must be finite and at least 0")
    return value


def _about(text: str) -> About:
    found = json.loads(text)
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise ValueError(f"its JSON file is not of the format {FORMAT}")
    kinds: dict[str, Any] = {**get_type_hints(About), "environment": dict}
    for name, kind in kinds.items():
        if not isinstance(found.get(name), kind):
            raise ValueError(f"its JSON file has no {name}")
    return About(**{name: found[name] for name in kinds})
