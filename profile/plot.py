"""Figures of profiles, runs and measurements: ``python profile/plot.py stages runs/RUN --out stages.png``."""

from common.command import run_command
from common.figures.commands import main

if __name__ == "__main__":
    run_command(main)
