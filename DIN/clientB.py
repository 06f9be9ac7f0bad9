"""Party B: ``python -m DIN.clientB --ip SERVER --portB PORT``."""

from functools import partial

from common.command import run_command
from DIN.client import main

if __name__ == "__main__":
    run_command(partial(main, "B"))
