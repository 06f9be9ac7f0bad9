"""Why a plan: ``python -m common.planning explain --edge EDGE.csv --cloud CLOUD.csv --up 20mbit --down 20mbit``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import LinkContext, parse_context
from common.planning.explain import explain
from common.planning.losses import LossTable, load_losses
from common.planning.problem import Current, Goal, Limits, Objective, Power, Problem
from common.planning.published import Published
from common.planning.quantities import rate_mbps, size_bytes, time_ms
from common.planning.strategies import STRATEGIES, Fixed, Strategy
from common.profiling.load import load


@dataclass(frozen=True)
class Options:
    """Choose a plan for two profiles and a link, and say why: the candidates around it, and what would change it."""

    command: Annotated[tyro.conf.Positional[Literal["explain"]], tyro.conf.arg(metavar="explain")]
    """What to do."""
    edge: str
    """Profile of the edge: a file of python -m common.profiling, or a published table as runtime_MODEL.csv:TX2."""
    cloud: str
    """Profile of the cloud, in the same way; of a published table the device is Cloud."""
    link: str = "wifi"
    """A named link, or UP/DOWN/RTT in Mbit/s and ms; --up, --down and --rtt go before it."""
    up: str = ""
    """Rate from edge to cloud, such as 20mbit."""
    down: str = ""
    """Rate from cloud to edge."""
    rtt: str = ""
    """Round-trip time, such as 20ms."""
    strategy: Literal["ours", "jointdnn", "neurosurgeon", "edge", "cloud", "fixed", "paper"] = "ours"
    """Who chooses; fixed needs --cut, paper is the published engine."""
    stale_it: str = "auto"
    """K, or auto: the smallest that saturates the slowest stage (of paper: 4)."""
    max_stale_it: int = 16
    """The largest K that auto may take."""
    codecs_up: tuple[str, ...] = ()
    """What may encode what goes up: activations, or gradients with --edge_holds tail; default all that both have."""
    codecs_down: tuple[str, ...] = ()
    """What may encode what comes down; default all that both have."""
    cut: str = ""
    """Of fixed: index or name of the cut; its codecs are the first of --codecs_up and --codecs_down."""
    edge_holds: Literal["head", "tail"] = "head"
    """Which part the edge computes."""
    objective: Goal = "time"
    """What is to be small."""
    energy_weight: float = 0.5
    """Of weighted: 0 is time alone, 1 energy alone."""
    power: tuple[float, float, float, float] | None = None
    """Of the edge, in W: busy, idle, and in addition transmitting, receiving."""
    edge_memory: str = ""
    """The most that tensors may take on the edge, such as 500MiB."""
    loss_table: Path | None = None
    """Accuracy that codecs lose: CSV with codec_up, codec_down, loss_points."""
    max_loss: float | None = None
    """The most points that codecs may lose."""
    current_cut: int | None = None
    """Cut of a run that this plan would change."""
    remaining: float = 1000.0
    """Steps that the plan is expected to live for, with --current_cut."""
    qtime: float = 0.0
    """Of paper: seconds that quantising adds to the edge."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Decide and explain."""
    options = parse(Options)
    print("\n".join(explain(make_problem(options), make_strategy(options))))


def make_problem(options: Options) -> Problem:
    """The problem that the flags describe.

    Raises:
        UsageError: a flag without sense, or profiles that are none or of different models.
    """
    if not 0 <= options.energy_weight <= 1:
        raise UsageError(f"--energy_weight is {options.energy_weight:g}; it must be from 0 to 1")
    if not 1 <= options.max_stale_it <= 1000:
        raise UsageError(f"--max_stale_it is {options.max_stale_it}; it must be 1 to 1000")
    if options.max_loss is not None and options.loss_table is None:
        raise UsageError("--max_loss needs --loss_table, which says what codecs lose")
    if options.power is not None and min(options.power) < 0:
        raise UsageError("--power has numbers below 0")
    return Problem(
        load(options.edge),
        load(options.cloud),
        _context(options),
        codecs_up=options.codecs_up,
        codecs_down=options.codecs_down,
        stale_it=_stale_it(options.stale_it),
        max_stale_it=options.max_stale_it,
        edge_holds=options.edge_holds,
        objective=Objective(options.objective, options.energy_weight),
        limits=Limits(
            size_bytes("edge_memory", options.edge_memory) if options.edge_memory else None, options.max_loss
        ),
        losses=LossTable() if options.loss_table is None else load_losses(options.loss_table),
        power=None if options.power is None else Power(*options.power),
        current=None if options.current_cut is None else Current(options.current_cut, max(options.remaining, 1.0)),
    )


def make_strategy(options: Options) -> Strategy:
    """The strategy that the flags name.

    Raises:
        UsageError: fixed without a cut.
    """
    if options.strategy == "paper":
        return Published(options.qtime)
    if options.strategy != "fixed":
        return STRATEGIES[options.strategy]()
    if not options.cut:
        raise UsageError("--strategy fixed needs --cut")
    cut = int(options.cut) if options.cut.isdecimal() else options.cut
    up, down = (each[0] if each else "none" for each in (options.codecs_up, options.codecs_down))
    return Fixed(cut, up, down, _stale_it(options.stale_it))


def _context(options: Options) -> LinkContext:
    named = parse_context(options.link)
    up = rate_mbps("up", options.up) if options.up else named.up_mbps
    down = rate_mbps("down", options.down) if options.down else named.down_mbps
    return LinkContext(options.link, up, down, time_ms("rtt", options.rtt) if options.rtt else named.rtt_ms)


def _stale_it(text: str) -> int | None:
    if text != "auto" and not text.isdecimal():
        raise UsageError(f"--stale_it is {text!r}; it is auto or a whole number")
    return None if text == "auto" else int(text)


if __name__ == "__main__":
    run_command(main)
