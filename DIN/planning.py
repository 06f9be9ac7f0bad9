"""A party that plans: codecs and K for its own link, so that it holds up no step of all parties.

It plans twice before the run. What it would take by itself says how long a step would be if it were up to this party;
that is told when the parties meet, and the longest of all is heard. No step can be shorter, so behind the meeting it
takes the plainest codecs and the least K with which a step of its own is no longer than that. While it trains it looks
again, in the same way: what the parties tell each other then goes with the pings of their sessions.

The cut stays where the flags have it: an earlier one would show the server more of what users have seen.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.planning.adapt import Adapter, scaled
from common.planning.log import FILE, Context, PlanLog, read_plans
from common.planning.plan import Plan
from common.planning.problem import MESSAGE_BYTES, Partners, Problem
from common.planning.strategies import STRATEGIES, Fixed, Strategy
from common.training.company import Company
from common.training.exchange import narrowed
from common.training.monitor import LinkMonitor
from common.training.pace import Pace, Paces
from common.training.pilot import Pilot, link_of
from common.training.profiles import FOLDER, ask_profile, profile_of
from common.training.remote import Cloud
from DIN.options import ClientOptions
from DIN.recipe import PartyPlan
from discriminative.planning import codecs, told_link

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What a party begins with, now that it has met the others."""

    plan: Plan
    reason: str


@dataclass(frozen=True)
class Proposal:
    """What a party would do by itself, and what it decides by."""

    problem: Problem
    strategy: Strategy
    context: Context
    turn_s: Callable[[LinkContext], float] | None
    """Over a link, how long a step's outputs and their gradients are on their way to a party that has the labels."""
    pace: Pace
    """Of this party alone."""

    def settle(self, common: Pace) -> Settled:
        """The plan with all parties' pace known."""
        partners = Partners(common.step_s, common.turn_s, self.turn_s is not None)
        plan = self.strategy.decide(replace(self.problem, partners=partners))
        log.info("%s; plan: %s", told_link(self.problem.context), plan)
        reason = (
            f"before the run; alone {1e3 * self.pace.step_s:.1f} ms a step, all parties that plan "
            f"{1e3 * common.step_s:.1f} ms"
        )
        return Settled(plan, reason)

    def paces(self, common: Pace | None) -> Paces:
        """What the others are told at first, and what is known of them: of a party that goes on nothing."""
        return Paces(self.pace, common)

    @contextmanager
    def pilot(
        self, paces: Paces, monitor: LinkMonitor, folder: Path, every_s: float, first: Settled | None
    ) -> Iterator[Pilot]:
        """Looks at the plan while the run trains, with a log in its folder; one that goes on adds to the log it has."""
        adapter = Adapter(self.problem, self.strategy)
        company = Company(adapter, paces, self.turn_s)
        before_s = read_plans(folder / FILE)[-1].wall_s if first is None and (folder / FILE).exists() else 0.0
        with PlanLog(folder, more=first is None) as plans:
            pilot = Pilot(adapter, monitor, plans, every_s=every_s, company=company, before_s=before_s)
            if first is not None:
                pilot.begin(first.plan, 0, self.context, first.reason)
            yield pilot


def propose(plan: PartyPlan, options: ClientOptions, cloud: Cloud, monitor: LinkMonitor) -> Proposal:
    """Profile both machines, measure the link, and plan as if there were no other party.

    Args:
        plan: of the flags; its samples need not be aligned.
        options: with what is to be chosen.
        cloud: the server, which is profiled too, with the top.
        monitor: told what the link is seen to be.

    Raises:
        UsageError: no plan is within the limits, or the link cannot be measured.
        TandemError: the server does not tell its profile.
    """
    up, down = codecs(options)
    timed = tuple(dict.fromkeys((*up, *down)))
    log.info("profiling this party's model on this machine and on the server; both keep what they measure")
    mine = profile_of(plan.prepared, plan.job, timed, options.device, options.run_dir / FOLDER).profile("this machine")
    if plan.cut.index not in mine.cuts:
        others = (name for cut, name in zip(mine.cuts, mine.names, strict=True) if cut > plan.cut.index)
        raise UsageError(
            f"--cut {plan.cut.name} is within a block, and profiles know those between blocks; to choose codecs or K, "
            f"cut at {' or '.join(others)}"
        )
    told, context = ask_profile(cloud, plan.job, timed, monitor)
    link = link_of(context)
    if link is None:
        raise UsageError("the link to the server could not be measured; give --plan fixed, and --stale_it a number")
    job = plan.job
    outputs_bits = 8 * (4 * job.batch_size * job.num_classes + MESSAGE_BYTES)

    def turn_s(over: LinkContext) -> float:
        return over.rtt_ms / 1e3 + outputs_bits / over.down_bps + outputs_bits / over.up_bps

    partners = Partners(turn_s=turn_s(link), turns_here=True) if plan.labelled else Partners()
    problem = Problem(
        replace(scaled(mine, options.slowdown), safe=mine.safe & np.equal(mine.cuts, plan.cut.index)),
        told,
        link,
        codecs_up=up,
        codecs_down=down,
        max_stale_it=options.max_stale_it,
        objective=options.aim,
        limits=options.limits,
        partners=partners,
        losses=options.losses,
        power=options.edge_power,
        message_bytes=MESSAGE_BYTES + narrowed(torch.tensor([job.samples])).element_size() * job.batch_size,
    )
    chooses = _strategy(plan, options)
    step_s = chooses.decide(problem).prediction.step_s
    return Proposal(problem, chooses, context, turn_s if plan.labelled else None, Pace(step_s, partners.turn_s))


def following(plan: PartyPlan, chosen: Plan) -> PartyPlan:
    """The party's plan with what was chosen."""
    codecs = {"compress_up": chosen.codec_up, "compress_down": chosen.codec_down}
    return replace(plan, job=msgspec.structs.replace(plan.job, stale_it=chosen.stale_it, **codecs))


def _strategy(plan: PartyPlan, options: ClientOptions) -> Strategy:
    if options.plan != "fixed":
        return STRATEGIES[options.plan]()
    up, down = options.codecs
    return Fixed(plan.cut.index, up, down, None)
