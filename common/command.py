"""Run a program's main function: errors become one line on stderr and an exit code."""

import logging
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from common.errors import TandemError

INTERRUPTED = 128 + signal.SIGINT


def run_command(main: Callable[[], None]) -> NoReturn:
    """Call ``main`` and exit: 0 on success, 1 on failure, 2 on wrong usage, 130 when interrupted.

    An error is told as one line on stderr; ``--debug`` anywhere on the command line shows its traceback.
    SIGTERM ends the program as an orderly exit, so that files are closed and sockets released.
    """
    debug = "--debug" in sys.argv
    signal.signal(signal.SIGTERM, _leave)
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        main()
    except TandemError as error:
        if debug:
            raise
        sys.exit(_told(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _told(error: TandemError) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)
