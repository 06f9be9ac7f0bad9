"""The figures as commands: ``python profile/plot.py FIGURE FILES...`` draws one and writes it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol

import tyro
from matplotlib.figure import Figure

from common.config import parse
from common.drawing import LOOKS, Look, check_files, save
from common.errors import UsageError
from common.figures import comparison, curves, decisions, profiles, resources, stages, staleness, timeline, weights
from common.figures.run_folder import RunFolder, open_runs
from common.naming import nearest

Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
Profiles = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROFILE.csv [PROFILE.csv ...]")]
Measurements = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE.json [...]")]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What all figures have."""

    out: tuple[Path, ...] = ()
    """Files to write: PNG, PDF, SVG; default FIGURE.png here, with --style paper FIGURE.pdf."""
    style: Literal["screen", "paper"] = "screen"
    """paper: the sizes of a journal's columns, letters like Times, vector graphics by default."""
    title: str = ""
    """Title above the figure."""
    debug: bool = False
    """Show tracebacks."""


class Command(Protocol):
    """A figure with its flags."""

    @property
    def out(self) -> tuple[Path, ...]: ...

    @property
    def style(self) -> Literal["screen", "paper"]: ...

    @property
    def title(self) -> str: ...

    def draw(self, look: Look) -> Figure: ...


@dataclass(frozen=True, kw_only=True)
class Blocks(Output):
    """Time of each block of a model, a row for each device (profiles of `python -m common.profiling`)."""

    profiles: Profiles
    """Profiles of the same model."""

    def draw(self, look: Look) -> Figure:
        return profiles.draw_blocks(look, self.profiles)


@dataclass(frozen=True, kw_only=True)
class Cuts(Output):
    """Activation bytes at each cut by codec, and the training time on either side of it."""

    profiles: Profiles
    """The edge's profile and the cloud's, or one for both; also runtime_MODEL.csv:DEVICE of the published tables."""
    codecs: tuple[str, ...] = ()
    """Codecs to draw; default all of the edge's profile."""

    def draw(self, look: Look) -> Figure:
        return profiles.draw_cuts(look, self.profiles, self.codecs)


@dataclass(frozen=True, kw_only=True)
class _OfRuns(Output):
    runs: Runs
    """Run folders."""
    labels: tuple[str, ...] = ()
    """What the runs are called, one for each; default the folders' names without the time."""

    def opened(self) -> list[RunFolder]:
        return open_runs(self.runs, self.labels)


@dataclass(frozen=True, kw_only=True)
class Stages(_OfRuns):
    """Mean time of each stage of a step, beside the limit and the step as it was."""

    def draw(self, look: Look) -> Figure:
        return stages.draw(look, self.opened())


@dataclass(frozen=True, kw_only=True)
class Timeline(_OfRuns):
    """What edge, uplink, cloud and downlink do at the same time, over some steps."""

    first_step: int = 12
    """The step that it begins with."""
    steps: int = 4
    """How many steps of the slowest run it shows."""

    def draw(self, look: Look) -> Figure:
        return timeline.draw(look, self.opened(), self.first_step, self.steps)


@dataclass(frozen=True, kw_only=True)
class Curves(_OfRuns):
    """Training loss and held-out accuracy over time, bytes or steps."""

    over: tuple[curves.Over, ...] = ("time", "bytes")
    """time, bytes, steps: a column for each."""
    smooth: int = 10
    """Steps that each point of the loss is the mean of."""

    def draw(self, look: Look) -> Figure:
        return curves.draw(look, self.opened(), self.over, self.smooth)


@dataclass(frozen=True, kw_only=True)
class Context(Output):
    """Link and plan over time, predicted and measured step time: of a run that planned while it trained."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder with plans.jsonl."""
    label: str = ""
    """What the run is called; default the folder's name without the time."""

    def draw(self, look: Look) -> Figure:
        return decisions.draw(look, RunFolder(self.run, self.label))


@dataclass(frozen=True, kw_only=True)
class Staleness(_OfRuns):
    """Share of the steps by how stale their gradients were."""

    def draw(self, look: Look) -> Figure:
        return staleness.draw(look, self.opened())


@dataclass(frozen=True, kw_only=True)
class _OfMeasurements(Output):
    measurements: Measurements
    """Run folders, and files of quantify's --json."""
    labels: tuple[str, ...] = ()
    """What they are called, one for each."""


@dataclass(frozen=True, kw_only=True)
class Memory(_OfMeasurements):
    """Peak memory of runs (edge) and of what `python -m quantify.memory --json` measured."""

    budget_mib: float | None = None
    """A line at this size."""

    def draw(self, look: Look) -> Figure:
        return resources.draw_memory(look, resources.memory_bars(self.measurements, self.labels), self.budget_mib)


@dataclass(frozen=True, kw_only=True)
class Energy(_OfMeasurements):
    """Energy of runs that were metered, and of what `python -m quantify.energy --json` measured, rail by rail."""

    def draw(self, look: Look) -> Figure:
        return resources.draw_energy(look, resources.energy_bars(self.measurements, self.labels))


@dataclass(frozen=True, kw_only=True)
class Comparison(Output):
    """Strategies against each other in several contexts."""

    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE.csv")]
    """CSV with context, strategy, step_time_s, time_to_accuracy_s, bytes, energy_mj, edge_peak_memory_bytes."""
    strategies: tuple[str, ...] = field(default=())
    """Only these, in this order; default all."""

    def draw(self, look: Look) -> Figure:
        rows = comparison.read_comparison(self.table)
        if unknown := [name for name in self.strategies if name not in {row.strategy for row in rows}]:
            known = dict.fromkeys(row.strategy for row in rows)
            raise UsageError(f"--strategies: {self.table} has no {unknown[0]}; {nearest(unknown[0], known)}")
        chosen = [row for name in self.strategies for row in rows if row.strategy == name]
        return comparison.draw(look, chosen or rows)


@dataclass(frozen=True, kw_only=True)
class Weights(Output):
    """How the weights of each slice are distributed, epoch by epoch, of a run with --track_weights 1."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder with weights.npz."""
    slices: tuple[int, ...] = ()
    """Only these; default all."""

    def draw(self, look: Look) -> Figure:
        found = weights.read_weights(self.run)
        if unknown := [each for each in self.slices if each not in found]:
            raise UsageError(f"--slices: {self.run} has no slice {unknown[0]}; it has {', '.join(map(str, found))}")
        return weights.draw(look, {i: found[i] for i in self.slices or found})


COMMANDS: Mapping[str, type[Command]] = {
    "blocks": Blocks,
    "cuts": Cuts,
    "stages": Stages,
    "timeline": Timeline,
    "curves": Curves,
    "context": Context,
    "staleness": Staleness,
    "memory": Memory,
    "energy": Energy,
    "comparison": Comparison,
    "weights": Weights,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figure of a command line.

    Raises:
        UsageError: no such figure, flags or files that do not fit; the error names them.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UsageError(f"there is no figure {name!r}; {nearest(name, COMMANDS)}")
    command = parse(COMMANDS[name], rest, prog=f"python profile/plot.py {name}")
    for path in draw(name, command):
        print(f"figure: {path}")


def draw(name: str, command: Command) -> Sequence[Path]:
    """Draw and save; the files."""
    with LOOKS[command.style].applied() as look:
        paths = command.out or (Path(f"{name}{look.suffix}"),)
        check_files("out", paths)
        figure = command.draw(look)
        if command.title:
            figure.suptitle(command.title, x=0.01, ha="left", fontsize="large")
        for path in paths:
            save(figure, path, look.dpi)
    return paths


def overview() -> str:
    """The figures, a line each."""
    lines = [f"  {name:<12}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python profile/plot.py FIGURE FILES... [--out FILE ...] [--style paper] [--title TEXT]",
            "",
            *lines,
            "",
            "python profile/plot.py FIGURE --help has the flags of each; docs/gallery.md shows all of them.",
        ]
    )
