"""A run that plans: profiles of both machines, the link as it is, and the plan to begin with."""

import logging
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.planning.adapt import Adapter, scaled
from common.planning.log import Context
from common.planning.plan import Plan as Chosen
from common.planning.problem import Problem
from common.planning.strategies import STRATEGIES, Fixed, Strategy
from common.planning.strategies import Cloud as CloudOnly
from common.planning.swings import STEADY
from common.profiling.profile import longer_tail
from common.training.monitor import LinkMonitor
from common.training.pilot import link_of
from common.training.profiles import FOLDER, ask_profile, loss_s, profile_of
from common.training.remote import Cloud
from discriminative.options import PlannedOptions
from discriminative.recipe import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """What was decided before the run, and what decides during it."""

    adapter: Adapter
    first: Chosen
    context: Context
    every_s: float


def wants_plan(options: PlannedOptions) -> bool:
    """Whether something is to be chosen."""
    return options.plan != "fixed" or options.stale_it == "auto"


def choose(plan: Plan, options: PlannedOptions, cloud: Cloud, monitor: LinkMonitor) -> tuple[Plan, Planned]:
    """Choose cut, codecs and K; the run's plan with them.

    Args:
        plan: of the flags.
        options: with what is to be chosen.
        cloud: the server, which is profiled too.
        monitor: told what the link is seen to be.

    Raises:
        UsageError: no plan is within the limits, or a strategy needs what the profiles do not have.
        TandemError: the server does not tell its profile.
    """
    up, down = codecs(options)
    timed = tuple(dict.fromkeys((*up, *down)))
    log.info("profiling %s on this machine and on the server; both keep what they measure", plan.job.model)
    mine = profile_of(plan.prepared, plan.job, timed, options.device, options.run_dir / FOLDER).profile("this machine")
    target_bytes = 0
    if plan.job.direction == "down":  # the loss is computed here
        targets = next(plan.train.epoch(0)).labels
        target_bytes = targets.nbytes
        mine = longer_tail(mine, loss_s(plan.prepared.graph, plan.objective, targets, options.device))
    told, context = ask_profile(cloud, plan.job, timed, monitor)
    link = link_of(context)
    if link is None:
        raise UsageError("the link to the server could not be measured; give --plan fixed, and --stale_it a number")
    problem = Problem(
        scaled(mine, options.slowdown),
        told,
        link,
        codecs_up=up,
        codecs_down=down,
        max_stale_it=options.max_stale_it,
        edge_holds="head" if plan.job.direction == "up" else "tail",
        target_bytes=target_bytes,
        objective=options.aim,
        limits=options.limits,
        losses=options.losses,
        power=options.edge_power,
    )
    adapter = Adapter(problem, strategy(plan, options))
    adaptive = options.plan == "ours" or (options.plan == "fixed" and options.stale_it == "auto")
    first = adapter.first(link, monitor.spread() if adaptive else STEADY)
    log.info("link %s; plan: %s", told_link(link), first)
    return following(plan, first), Planned(adapter, first, context, options.replan_s if adaptive else 0.0)


class Choosing(Protocol):
    """Options that say what may be chosen."""

    @property
    def plan(self) -> str:
        """Who chooses."""

    @property
    def codecs(self) -> tuple[str, str]:
        """Of up and down, by the flags of a run without a plan."""

    @property
    def plan_codecs_up(self) -> tuple[str, ...]:
        """What `ours` chooses from."""

    @property
    def plan_codecs_down(self) -> tuple[str, ...]:
        """The same of what comes down."""


def codecs(options: Choosing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What may be chosen from, of what goes up and of what comes down."""
    up, down = options.codecs
    if options.plan == "fixed":
        return (up,), (down,)
    if options.plan != "ours":
        return ("none",), ("none",)
    ups = options.plan_codecs_up or tuple(dict.fromkeys(("none", up)))
    return ups, options.plan_codecs_down or tuple(dict.fromkeys(("none", down)))


def strategy(plan: Plan, options: PlannedOptions) -> Strategy:
    """What chooses."""
    up, down = codecs(options)
    if options.plan == "fixed":
        return Fixed(plan.cut.index, up[0], down[0], None)
    return CloudOnly(up[0]) if options.plan == "cloud" else STRATEGIES[options.plan]()


def following(plan: Plan, chosen: Chosen) -> Plan:
    """The run's plan with what was chosen."""
    job = msgspec.structs.replace(
        plan.job,
        cut=chosen.cut,
        cut_name=chosen.cut_name,
        splits=-1,
        split_index=-1,
        compress_up=chosen.codec_up,
        compress_down=chosen.codec_down,
        stale_it=chosen.stale_it,
    )
    return replace(plan, job=job, cut=plan.prepared.graph.find(chosen.cut))


def told_link(link: LinkContext) -> str:
    """A link in words."""
    return f"{link.up_mbps:.1f} Mbit/s up, {link.down_mbps:.1f} down, RTT {link.rtt_ms:.1f} ms"
