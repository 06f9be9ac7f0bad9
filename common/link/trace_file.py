"""Bandwidth traces from files: Mahimahi's packet opportunities, or a CSV table of rates; either may be gzipped.

Mahimahi (Netravali et al., USENIX ATC 2015): each line is a millisecond at which one packet of 1500 bytes may leave;
a millisecond with several packets has several lines, and the last line is the length of the trace. Here the packets
of line T leave evenly within (T - 1, T] ms, and all their bytes count as payload.

CSV: a header with ``time_s`` and ``up_mbps``, ``down_mbps`` or both (1 Mbit is 1e6 bits); a row's rates hold until
the time of the next row, the last row's for as long as those of the row before it.
"""

import csv
import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError
from common.link.trace import Trace

PACKET_BYTES = 1500
_MOST_BYTES = 1 << 28  # of a file, unpacked
_GZIP = b"\x1f\x8b"

Direction = Literal["up", "down"]
_Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def read_trace(path: Path, direction: Direction, *, loop: bool = True) -> Trace:
    """The trace of one direction of a link.

    Args:
        path: a Mahimahi file, or a CSV table.
        direction: which column of a CSV table to take.
        loop: whether the trace begins again at its end.

    Raises:
        UsageError: no such file, or one that holds no trace of this direction; it names the line.
    """
    text = _read(path)
    first = text.lstrip().partition("\n")[0]
    try:
        times_s, carried = _mahimahi(text) if first.strip().isdecimal() else _table(text, f"{direction}_mbps")
    except ValueError as error:
        raise UsageError(f"{path} is no bandwidth trace: {error}") from None
    if times_s[-1] <= 0 or carried[-1] <= 0:
        raise UsageError(f"{path} is no bandwidth trace: a link that never carries anything is none")
    return Trace(times_s.tolist(), carried.tolist(), loop=loop, name=path.name)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if packed else file).read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "its gzip stream is damaged"
        raise UsageError(f"the bandwidth trace {path} cannot be read: {reason}") from None
    if len(content) > _MOST_BYTES:
        raise UsageError(f"the bandwidth trace {path} has more than {_MOST_BYTES >> 20} MiB; use a part of it")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no bandwidth trace: it is no text") from None


def _mahimahi(text: str) -> _Curve:
    lines = text.split()
    for number, line in enumerate(lines, start=1):
        if not line.isdecimal() or len(line) > 12:
            raise ValueError(f"line {number} is {line[:40]!r}, no millisecond")
    milliseconds = np.array(lines, dtype=np.int64)
    if (falls := np.flatnonzero(np.diff(milliseconds) < 0)).size:
        raise ValueError(f"line {falls[0] + 2} is earlier than the line before it")
    if milliseconds[-1] == 0:
        raise ValueError("it ends at 0 ms")
    # What may leave at 0 ms is what may leave at the end of the round before.
    ends, counts = np.unique(np.maximum(milliseconds, 1), return_counts=True)
    carried = np.cumsum(counts) * float(PACKET_BYTES)
    times = np.stack([ends - 1, ends], axis=1).ravel() / 1e3
    before = np.concatenate([[0.0], carried[:-1]])
    heights = np.stack([before, carried], axis=1).ravel()
    return np.concatenate([[0.0], times]), np.concatenate([[0.0], heights])


def _table(text: str, column: str) -> _Curve:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    names = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = names
    if missing := [name for name in ("time_s", column) if name not in names]:
        raise ValueError(f"its header has no column {missing[0]}, but {', '.join(names)[:80]}")
    rows = [(_number(row, "time_s", reader.line_num), _number(row, column, reader.line_num)) for row in reader]
    if not rows:
        raise ValueError("it has no row")
    starts, rates = np.array(rows, dtype=np.float64).T
    if (falls := np.flatnonzero(np.diff(starts) <= 0)).size:
        raise ValueError(f"row {falls[0] + 2} is not later than the row before it")
    last_s = starts[-1] - starts[-2] if len(starts) > 1 else 1.0
    times = np.append(starts, starts[-1] + last_s) - starts[0]
    return times, np.concatenate([[0.0], np.cumsum(rates * 1e6 / 8 * np.diff(times))])


def _number(row: dict[str, str], name: str, line: int) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise ValueError(f"line {line}: {name} is {row[name]!r}, no number") from None
    if not math.isfinite(value) or (value < 0 and name != "time_s"):
        raise ValueError(f"line {line}: {name} is {value:g}; it must be finite, and a rate at least 0")
    return value
