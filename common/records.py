"""Run folders: what a run was asked, where it ran, what each step and epoch gave, and its summary."""

import csv
import io
import itertools
import json
import math
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from common.errors import UsageError

_PACKAGES = ("tandem", "torch", "torchvision", "numpy", "msgspec", "zstandard", "lz4", "xxhash")


def new_folder(run_dir: Path, name: str) -> Path:
    """Make ``run_dir/<time>-<name>``, numbered where there is one already."""
    safe_name = re.sub(r"[^\w.+-]+", "_", name)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{safe_name}"
    for number in range(1, 1000):
        folder = run_dir / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"the run folder {folder} cannot be made: {error.strerror}") from None
        return folder
    raise FileExistsError(f"{run_dir} has too many runs called {stem}")


def check_run_dir(run_dir: Path) -> None:
    """Make the folder for run folders, before any work is done for a run that could not be recorded.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=run_dir):
            pass
    except OSError as error:
        raise UsageError(f"--run_dir {run_dir} cannot be written to: {error.strerror}; name another folder") from None


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON; dataclasses and messages as objects."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else msgspec.to_builtins(value)
    replace_text(path, json.dumps(finite(plain), indent=2, default=str) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a file so that whoever dies meanwhile leaves the old one, or the new one, whole."""
    draft = path.with_name(f".{path.name}")
    with draft.open("w", newline="") as file:
        file.write(text)
    draft.replace(path)


def finite(value: Any) -> Any:
    """``value`` with null in the place of NaN and infinite numbers, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def software_version() -> str:
    """Version of Tandem and of torch, for the other side's log."""
    versions = _versions()
    return f"tandem {versions.get('tandem', 'unknown')}, torch {versions.get('torch', 'unknown')}"


def environment() -> dict[str, Any]:
    """The machine, the system and the packages that a run used."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": _versions(),
    }


def _versions() -> dict[str, str]:
    return {name: version for name in _PACKAGES if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class CsvTable:
    """A CSV file whose columns are those of its first row; every row is on disk at once. It adds to one that exists."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []
        if path.exists():
            with path.open(newline="") as file:
                self._columns = next(csv.reader(file), [])

    def keep(self, rows: int) -> None:
        """Drop all rows but the first ones."""
        if self._columns:
            with self._path.open(newline="") as file:
                kept = list(itertools.islice(csv.reader(file), rows + 1))
            text = io.StringIO(newline="")
            csv.writer(text).writerows(kept)
            replace_text(self._path, text.getvalue())

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self._columns or list(row))
            if not self._columns:
                self._columns = list(row)
                writer.writeheader()
            writer.writerow(row)
