"""Check the models of the zoo, each in a process of its own: ``python -m tests.zoo [--suite timm] [--only NAME]``."""

import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from tqdm import tqdm

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from tests.zoo.entry import SUITES, Entry, Suite
from tests.zoo.families import LEFT_OUT, all_entries
from tests.zoo.report import report, totals
from tests.zoo.row import Row, one_line, read_rows, write_rows

# One thread each; no downloads; no messages of libraries about what they would rather have installed.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "YOLO_VERBOSE": "false",
}


@dataclass(frozen=True)
class Options:
    """Cut every model of the zoo everywhere, and compare it with itself in one piece."""

    suite: tuple[Suite, ...] = SUITES
    """Suites to check."""
    only: tuple[str, ...] = ()
    """Models to check; default all of the suites."""
    jobs: int = 2
    """Models at a time. Each has one thread, and needs 1 to 3 GB of memory."""
    limit_s: float = 300.0
    """A model that takes longer than so many seconds is stopped, and missing."""
    out: Path = Path("runs/zoo.csv")
    """Table of results. Models that stand there already are not checked again."""
    again: bool = False
    """Check them again."""
    markdown: Path | None = None
    """Also write the page of the documentation."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Check, write rows as they come, and tell what does not pass."""
    options = parse(Options)
    entries = all_entries()
    chosen = _chosen(entries, options)
    rows = read_rows(options.out)
    todo = [entry for entry in chosen if options.again or (entry.suite, entry.name) not in rows]
    with ThreadPoolExecutor(options.jobs) as pool, tqdm(total=len(todo), unit="model", disable=None) as bar:
        futures = [pool.submit(_check, entry, options.limit_s) for entry in todo]
        try:
            for future in as_completed(futures):
                row = future.result()
                rows[row.key] = row
                write_rows(options.out, [rows[key] for key in map(_key, entries) if key in rows])
                bar.update()
                if not row.passed:
                    bar.write(f"{row.suite} {row.model}: {row.failure}", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    if options.markdown is not None:
        options.markdown.write_text(report(entries, rows, LEFT_OUT), encoding="utf-8")
    done = [rows[_key(entry)] for entry in chosen]
    print(totals(done))
    if not all(row.passed for row in done):
        sys.exit(1)


def _chosen(entries: list[Entry], options: Options) -> list[Entry]:
    names = [entry.name for entry in entries if entry.suite in options.suite]
    for name in options.only:
        if name not in names:
            close = get_close_matches(name, names, n=3, cutoff=0.0)
            raise UsageError(f"--only {name}: the zoo has none of this name; the nearest are {', '.join(close)}")
    return [e for e in entries if e.suite in options.suite and (not options.only or e.name in options.only)]


def _key(entry: Entry) -> tuple[str, str]:
    return entry.suite, entry.name


def _check(entry: Entry, limit_s: float) -> Row:
    """The row of a model from a process of its own; what stops that process is the failure of its row."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.csv"
        command = [sys.executable, "-m", "tests.zoo.check", entry.suite, entry.name, str(file)]
        environment = {**os.environ, **_ENVIRONMENT, "YOLO_CONFIG_DIR": folder}
        stopped = ""
        try:
            done = subprocess.run(
                command, env=environment, timeout=limit_s, capture_output=True, text=True, errors="replace", check=False
            )
            if done.returncode < 0:
                stopped = f"the process died of {signal.Signals(-done.returncode).name}"
            elif done.returncode:
                stopped = f"the process failed: {one_line(done.stderr.strip().rpartition(chr(10))[2])}"
        except subprocess.TimeoutExpired:
            stopped = f"took longer than {limit_s:.0f} s"
        row = read_rows(file).get(_key(entry), Row(entry.suite, entry.name))
    return replace(row, failure="; ".join(filter(None, (row.failure, stopped)))) if stopped else row


if __name__ == "__main__":
    run_command(main)
