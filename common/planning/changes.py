"""What would change a plan: for each input, the nearest values at which another plan wins.

From the present value outwards in steps of a seventh, then by bisection to half a percent: the costs are closed forms,
so a decision takes a millisecond. A plan that wins within less than a step and loses again is not seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from common.errors import UsageError
from common.planning.plan import Plan
from common.planning.problem import Problem
from common.planning.strategies import Strategy
from common.profiling.profile import CodecCost, Profile

_FACTOR = 1.15
_REACH = 100.0
_PRECISION = 1.005


@dataclass(frozen=True)
class Quantity:
    """An input of the decision that may be other than it is."""

    name: str
    unit: str
    value: float
    put: Callable[[Problem, float], Problem]
    """The problem with another value of it."""


@dataclass(frozen=True)
class Change:
    """Beyond a value of an input, another plan wins."""

    quantity: Quantity
    above: bool
    value: float
    plan: Plan | None
    """None where no plan is within the limits there."""


def quantities(problem: Problem) -> list[Quantity]:
    """What may change: rates, RTT, the speed of both devices, the memory of the edge where it is limited."""
    context = problem.context
    found = [
        Quantity("up", "Mbit/s", context.up_mbps, lambda p, x: replace(p, context=replace(p.context, up_mbps=x))),
        Quantity("down", "Mbit/s", context.down_mbps, lambda p, x: replace(p, context=replace(p.context, down_mbps=x))),
        Quantity("RTT", "ms", max(context.rtt_ms, 0.1), lambda p, x: replace(p, context=replace(p.context, rtt_ms=x))),
        Quantity("speed of the edge", "x", 1.0, lambda p, x: replace(p, edge=slowed(problem.edge, 1 / x))),
        Quantity("speed of the cloud", "x", 1.0, lambda p, x: replace(p, cloud=slowed(problem.cloud, 1 / x))),
    ]
    budget = problem.limits.edge_memory_bytes
    if budget is not None:
        mib = budget / 2**20
        found.append(
            Quantity(
                "memory of the edge",
                "MiB",
                mib,
                lambda p, x: replace(p, limits=replace(p.limits, edge_memory_bytes=x * 2**20)),
            )
        )
    return found


def changes(problem: Problem, strategy: Strategy, plan: Plan) -> Iterator[tuple[Quantity, list[Change]]]:
    """For each quantity the nearest change above and below it, where there is one within a factor of 100."""
    for quantity in quantities(problem):
        both = (_nearest(problem, strategy, plan, quantity, above=above) for above in (True, False))
        yield quantity, [each for each in both if each is not None]


def slowed(profile: Profile, factor: float) -> Profile:
    """The profile of a device that takes ``factor`` times as long for everything."""

    def coding(table: CodecCost) -> CodecCost:
        return CodecCost(table.nbytes, table.encode_s * factor, table.decode_s * factor)

    times = ("head_s", "head_kept_s", "tail_s", "head_forward_s", "tail_forward_s")
    return replace(
        profile,
        **{name: getattr(profile, name) * factor for name in times},
        activations={name: coding(table) for name, table in profile.activations.items()},
        gradients={name: coding(table) for name, table in profile.gradients.items()},
    )


def _nearest(problem: Problem, strategy: Strategy, plan: Plan, quantity: Quantity, *, above: bool) -> Change | None:
    factor = _FACTOR if above else 1 / _FACTOR
    same = other = quantity.value
    while 1 / _REACH < other / quantity.value < _REACH:
        same, other = other, other * factor
        if (found := _other(problem, strategy, plan, quantity, other)) is not plan:
            break
    else:
        return None
    while max(same, other) / min(same, other) > _PRECISION:
        middle = (same * other) ** 0.5
        there = _other(problem, strategy, plan, quantity, middle)
        if there is plan:
            same = middle
        else:
            other, found = middle, there
    return Change(quantity, above, other, found)


def _other(problem: Problem, strategy: Strategy, plan: Plan, quantity: Quantity, value: float) -> Plan | None:
    """``plan`` itself where the same cut and codecs win at another value, else what wins there."""
    try:
        there = strategy.decide(quantity.put(problem, value))
    except UsageError:
        return None  # beyond the limits
    same = (there.cut, there.codec_up, there.codec_down) == (plan.cut, plan.codec_up, plan.codec_down)
    return plan if same else there
