"""What is measured: a command and its children, a process that runs already, or this machine for a while."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from common.errors import UsageError
from common.metering.marks import VARIABLE, MarkReader


@dataclass(frozen=True)
class Target:
    """What is measured, once it runs."""

    name: str
    process: psutil.Process | None
    """None: the machine."""
    limit_s: float | None
    owned: bool
    """It was started for this measurement, and ends with it."""
    marks: MarkReader | None = None

    @property
    def pid(self) -> int | None:
        """Of its process."""
        return None if self.process is None else int(self.process.pid)

    def wait(self) -> int:
        """Wait for its end; the exit code, 0 of what was not started here.

        Ctrl-C ends a measurement of what was not started here, as its time limit does.
        """
        try:
            if self.process is None:
                time.sleep(self.limit_s or 0.0)
                return 0
            code = self.process.wait(self.limit_s)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            return 0
        except KeyboardInterrupt:
            if self.owned:
                raise
            return 0
        return int(code or 0) if self.owned else 0


def divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags before ``--`` and the command behind it."""
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


@contextmanager
def target(program: str, command: list[str], pid: int | None, duration_s: float | None) -> Iterator[Target]:
    """Start or find what is to be measured; a command is stopped when its measurement is.

    Raises:
        UsageError: nothing to measure, too much, or it cannot be started or found.
    """
    if duration_s is not None and duration_s <= 0:
        raise UsageError(f"--duration_s is {duration_s:g}; it must be above 0")
    if command:
        if pid is not None or duration_s is not None:
            raise UsageError("a command behind -- is measured to its end: without --pid and --duration_s")
        with _started(command) as (process, marks):
            yield Target(_short(command), process, None, True, marks)
    elif pid is not None:
        yield Target(f"process {pid}", _found(pid), duration_s, False)
    elif duration_s is not None:
        yield Target("this machine", None, duration_s, False)
    else:
        raise UsageError(
            f"give the command to measure behind --, as in: python -m {program} -- python app.py; "
            "or --pid, or --duration_s"
        )


@contextmanager
def _started(command: list[str]) -> Iterator[tuple[psutil.Popen, MarkReader]]:
    with tempfile.TemporaryDirectory(prefix="tandem-marks-") as folder:
        path = Path(folder) / "marks"
        with closing(MarkReader(path)) as marks:
            try:
                process = psutil.Popen(command, env=os.environ | {VARIABLE: str(path)})
            except OSError as error:
                raise UsageError(f"{command[0]} cannot be started: {error.strerror}") from None
            try:
                yield process, marks
            except BaseException:
                process.terminate()  # whoever stops the measurement stops what is measured
                process.wait()
                raise


def _found(pid: int) -> psutil.Process:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise UsageError(f"--pid {pid}: no process has this number") from None


def _short(command: list[str]) -> str:
    words = " ".join([Path(command[0]).name, *command[1:]])
    return words if len(words) <= 60 else f"{words[:59]}…"
