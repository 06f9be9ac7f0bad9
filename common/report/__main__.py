"""Runs as one HTML page that holds all it shows: ``python -m common.report RUN... --out report.html``."""

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from common.command import run_command
from common.config import parse
from common.drawing import check_files
from common.errors import UsageError
from common.figures.run_folder import open_runs
from common.report.page import page


@dataclass(frozen=True)
class Options:
    """One page of one or several runs: figures, tables, what was asked, and where it ran.

    The page is one file without scripts, and fetches nothing: it can be mailed, kept, and opened anywhere.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""
    out: Path = Path("report.html")
    """Page to write."""
    labels: tuple[str, ...] = ()
    """What the runs are called, one for each; default the folders' names without the time."""
    title: str = ""
    """Heading of the page."""
    open: bool = False
    """Open the page in the browser."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Read, draw, write."""
    options = parse(Options)
    check_files("out", [options.out], [".html", ".htm"])
    text = page(open_runs(options.runs, options.labels), options.title)
    try:
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {options.out} cannot be written: {error.strerror}; name another file") from None
    print(f"report: {options.out}")
    if options.open:
        webbrowser.open(options.out.resolve().as_uri())


if __name__ == "__main__":
    run_command(main)
