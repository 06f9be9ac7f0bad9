"""Which figures some runs can have, drawn as SVG elements."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.figure import Figure

from common.drawing import LOOKS, Look, inline_svg
from common.figures import curves, decisions, resources, stages, staleness, timeline
from common.figures.run_folder import RunFolder
from common.planning.log import FILE as PLANS

_MOST_TIMELINES = 4
_FILES = ("summary.json", "metrics.jsonl", "epochs.csv", "trace.json", "config.json", "environment.json")


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    title: str
    svg: str
    caption: str


def pictures(runs: Sequence[RunFolder]) -> tuple[list[Picture], list[str]]:
    """The figures that the runs' files allow, and a sentence for each run that lacks some file."""
    missing = [(run, [name for name in _FILES if not run.has(name)]) for run in runs]
    notes = [
        f"{run.label} has no {', '.join(names)}: what these hold is left out. A run that has not ended lacks some."
        for run, names in missing
        if names
    ]
    with LOOKS["screen"].applied() as look:
        drawn = [
            Picture(title, inline_svg(draw(look), f"f{number}", escape(title, quote=True)), caption)
            for number, (title, draw, caption) in enumerate(_possible(runs))
        ]
    return drawn, notes


def _possible(runs: Sequence[RunFolder]) -> Iterator[tuple[str, Callable[[Look], Figure], str]]:
    """Title, drawing, and caption of each figure."""
    ended = [run for run in runs if run.has("summary.json")]
    stepped = [run for run in runs if run.has("metrics.jsonl")]
    traced = [run for run in runs if run.has("trace.json")]
    timed = traced[:_MOST_TIMELINES]
    metered = [run for run in ended if np.isfinite(run.of_summary("energy_mj"))]
    weighed = [run for run in ended if np.isfinite(run.of_summary("edge_peak_memory_bytes"))]
    if ended:
        yield (
            "Stages of a step",
            lambda look: stages.draw(look, ended),
            "Mean of the steps behind the warm-up. The limit is the slowest stage: no pipeline makes a step shorter.",
        )
    if timed:
        more = " The first runs only." if len(timed) < len(traced) else ""
        yield (
            "What happened at once",
            lambda look: timeline.draw(look, timed),
            f"Training steps over time; the cloud's are placed by an estimate of its clock.{more}",
        )
    if stepped:
        yield (
            "Loss and accuracy",
            lambda look: curves.draw(look, stepped),
            "Training loss at each step, held-out accuracy behind each epoch.",
        )
        yield (
            "Staleness",
            lambda look: staleness.draw(look, stepped),
            "How many later batches had gone forward when a batch's gradient was applied.",
        )
    if weighed:
        yield (
            "Memory",
            lambda look: resources.draw_memory(
                look, resources.memory_bars([run.folder for run in weighed], _labels(weighed))
            ),
            "Largest resident size of the edge's process.",
        )
    if metered:
        yield (
            "Energy",
            lambda look: resources.draw_energy(
                look, resources.energy_bars([run.folder for run in metered], _labels(metered))
            ),
            "Of the edge, in the whole run.",
        )
    for run in runs:
        if run.has(PLANS):
            yield (
                f"Context and plan: {run.label}",
                lambda look, run=run: decisions.draw(look, run),  # type: ignore[misc]
                "What was known of the link, the plan chosen from it, and the step predicted and measured.",
            )


def _labels(runs: Sequence[RunFolder]) -> list[str]:
    return [run.label for run in runs]
