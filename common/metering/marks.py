"""Events from inside a measured command: it appends lines to the file that its environment names."""

import os
import time
from pathlib import Path

VARIABLE = "TANDEM_MARKS"
"""Environment variable with the file's path; unset where nobody listens."""


def mark(name: str) -> None:
    """Name this moment in the timeline of whoever measures this process; nothing where nobody does."""
    path = os.environ.get(VARIABLE)
    if path:
        with open(path, "a") as file:
            file.write(f"@{time.perf_counter():.6f} {' '.join(name.split())}\n")


class MarkReader:
    """Gives the lines that were added since it was last asked.

    A line is a name, as a shell's ``echo epoch 1 >> $TANDEM_MARKS`` writes it, or begins with its moment on the
    system's monotonic clock, ``@12.345678 epoch 1``, as ``mark`` writes it.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open()

    def new(self) -> list[tuple[str, float | None]]:
        """Names and moments; None: now. A line that is still being written waits."""
        found: list[tuple[str, float | None]] = []
        while True:
            at = self._file.tell()
            line = self._file.readline()
            if not line.endswith("\n"):
                self._file.seek(at)
                return found
            first, _, rest = line.strip().partition(" ")
            moment = _number(first[1:]) if first.startswith("@") else None
            if line.strip():
                found.append((line.strip(), None) if moment is None else (rest or "mark", moment))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
