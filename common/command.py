"""Run a program's main function: errors become one line on stderr and an exit code."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from itertools import takewhile
from types import FrameType
from typing import NoReturn

from common.errors import TandemError
from common.naming import printable


def run_command(main: Callable[[], None], *, until_stopped: bool = False) -> NoReturn:
    """Call ``main`` and exit: 0 on success, 1 on failure, 2 on wrong usage.

    A program that SIGINT or SIGTERM stops has not done its work, and exits with 130 or 143; one that runs until
    it is stopped (``until_stopped``, a server) has, and exits with 0.

    An error is told as one line on stderr; ``--debug`` anywhere on the command line shows its traceback.
    SIGTERM ends the program as an orderly exit, so that files are closed and sockets released.
    """
    debug = "--debug" in list(takewhile(lambda word: word != "--", sys.argv))
    signal.signal(signal.SIGTERM, _leave)
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        main()
        sys.stdout.flush()
    except TandemError as error:
        if debug:
            traceback.print_exc()
        sys.exit(_told(error))
    except BrokenPipeError:
        # Whoever read this program's output has enough of it (`| head`). Nothing more is written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt as stop:
        if until_stopped:
            sys.exit(0)
        terminated = isinstance(stop, Terminated)
        print("terminated" if terminated else "interrupted", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))
    sys.exit(0)


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds the program as Ctrl-C does."""


def _told(error: TandemError) -> int:
    # Words of a peer may be in it, a machine that need not be a friend.
    print(f"error: {' '.join(printable(str(error), 1 << 14).split())}", file=sys.stderr)
    return error.exit_code


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
