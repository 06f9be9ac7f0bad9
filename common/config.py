"""Command lines from config classes: a field is a flag, the docstring below it is the flag's help."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TypeVar

import tyro

from common.errors import UsageError

T = TypeVar("T")

_BOX = re.compile(r"^[╭╰├].*$|^[│|]\s?─+\s?[│|]$", re.MULTILINE)


def parse(cls: type[T], argv: Sequence[str] | None = None, prog: str | None = None) -> T:
    """Build ``cls`` (a frozen dataclass) from the command line.

    Underscores and dashes are the same in flag names; switches are ``--name`` / ``--no_name``. In its help the program
    is called ``prog``, without which it is the file that was started.

    Raises:
        UsageError: an unknown flag (with the nearest name) or a value that does not fit.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config, unknown = tyro.cli(
                cls,
                prog=prog,
                args=sys.argv[1:] if argv is None else argv,
                use_underscores=True,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(complaint.getvalue())) from None
    if unknown:
        raise UsageError(_unknown_flag(cls, unknown[0]))
    return config


def _unknown_flag(cls: type[object], word: str) -> str:
    flag = word.partition("=")[0]
    if not flag.startswith("-"):
        return f"{word!r} stands where a flag was expected; see --help"
    known = [f"--{name}" for name in cls.__dataclass_fields__]  # type: ignore[attr-defined]
    match = get_close_matches(flag.replace("-", "_").replace("__", "--", 1), known, n=1, cutoff=0.5)
    hint = f"did you mean {match[0]}?" if match else "see --help for the list"
    return f"unknown flag {flag}; {hint}"


def _one_line(box: str) -> str:
    """The words of tyro's error box, without the frame, the repeated help and the footer."""
    text = re.split(r"Argument helptext:|For full helptext", box)[0]
    _, *inside = re.split(r"-{8,}", text)  # the frame where a terminal has no more than ASCII
    text = inside[0] if inside else text
    words = _BOX.sub("", text).replace("│", " ").replace("─", " ").split()
    return " ".join(words).removeprefix("Parsing error ")
