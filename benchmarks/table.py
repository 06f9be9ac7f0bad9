"""Tables of benchmark results, and the line that says where they were measured."""

import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any


def machine() -> str:
    """Machine, versions and date of a measurement."""
    where = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    return f"{where}, {versions}, {time.strftime('%Y-%m-%d')}"


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of the same keys as a Markdown table."""
    if not rows:
        return
    cells = [[_text(value) for value in row.values()] for row in rows]
    names = list(rows[0])
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, ["-" * width for width in widths], *cells):
        print("| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)
