"""Planning for a link whose rates swing: what a step takes on average over the rates, not at their average. Pure.

A step waits for its slowest stage, so a plan that is best at the mean rate is often not best on a link that is now
above and now below it: what the link's good moments win is less than what its bad ones cost. A direction with a spread
s has, a third of the time each, the rates

    r (1 + s)^-1.5,  r,  r (1 + s)^1.5        r such that the mean time of a byte is that of the estimate

so that it is usually as far from r as transfers were. The two directions swing by themselves: nine pairs of rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from common.link.contexts import LinkContext
from common.planning.context import Spread
from common.planning.plan import Plan
from common.planning.problem import ALONE, Partners

STEADY = Spread(0.0, 0.0)
LEAST_SPREAD = 0.02
"""A link that swings less is planned for as a steady one."""
CALM = 0.1
"""Spread of a link that, by the first look at it, does not swing: the timing of threads is in it as well."""
FIRST_SPREAD = 0.5
"""At least expected of any other one, for want of a longer look: within seconds a link swings less than later."""
_REACH = 1.5  # in spreads: with these three rates, the mean distance is the spread


@dataclass(frozen=True)
class Swings:
    """Rates as factors of the estimate's, each for the same share of the time; the plain estimate comes first."""

    up: Sequence[float]
    down: Sequence[float]

    @classmethod
    def of(cls, spread: Spread) -> "Swings":
        """The rates of a link with a spread."""
        return cls(_factors(spread.up or 0.0), _factors(spread.down or 0.0))

    def contexts(self, link: LinkContext) -> list[LinkContext]:
        """The link in each of its states."""
        return [
            replace(link, up_mbps=link.up_mbps * up, down_mbps=link.down_mbps * down)
            for up, down in product(self.up, self.down)
        ]

    def averaged(self, plan: Plan, link: LinkContext, partners: Partners = ALONE) -> Plan:
        """A plan that was predicted for a link, with the mean step over the link's states."""
        if plan.local:
            return plan
        stages, rtt_s = plan.prediction.stages_s, link.rtt_ms / 1e3
        steps_s = [
            partners.step_time(
                (stages.edge, stages.uplink / up, stages.cloud, stages.downlink / down), rtt_s, plan.stale_it
            )
            for up, down in product(self.up, self.down)
        ]
        return replace(plan, prediction=replace(plan.prediction, step_s=sum(steps_s) / len(steps_s)))


def at_first(spread: Spread) -> Spread:
    """What to expect of a link by a first look at it."""
    known = Spread(spread.up or 0.0, spread.down or 0.0)
    if max(known.up or 0.0, known.down or 0.0) < CALM:
        return known
    return Spread(max(known.up or 0.0, FIRST_SPREAD), max(known.down or 0.0, FIRST_SPREAD))


def _factors(spread: float) -> tuple[float, ...]:
    if spread < LEAST_SPREAD:
        return (1.0,)
    reach = _REACH * math.log1p(spread)
    mean = (1 + math.exp(reach) + math.exp(-reach)) / 3  # of a byte's time
    return mean, mean * math.exp(-reach), mean * math.exp(reach)
