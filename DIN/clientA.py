"""Party A: ``python -m DIN.clientA --ip SERVER --portA PORT``."""

from functools import partial

from common.command import run_command
from DIN.client import main

if __name__ == "__main__":
    run_command(partial(main, "A"))
