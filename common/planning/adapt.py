"""When to change the plan of a run: what the devices and the link are now, what a switch would gain, and for how long.

Pure: instants are given. A switch must pay: what it gains in each step, over the steps that the context is expected to
last, must be more than the pause that it costs; and it must gain enough to be seen through the noise, twice in a row.
On a link that swings, a step is what it takes on average (`common.planning.swings`), and all plans that are the best at
one of its rates are weighed.

Of several edges that train one model, one that holds up no step gains nothing by any plan. It goes back to a plainer
codec, or to a smaller K, with which it would hold up none either, and would not if that took a little longer.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.planning.context import Spread
from common.planning.plan import Plan
from common.planning.problem import ALONE, Current, Partners, Problem
from common.planning.strategies import Fixed, Strategy
from common.planning.swings import STEADY, Swings, at_first
from common.profiling.profile import CodecCost, Profile

LEAST_GAIN = 0.05
"""Of a step's time; below it predictions and noise are alike."""
FIRST_LIFE_S = 60.0
"""What a context is expected to last before any change of one was seen."""
_CHANGED = 0.25  # of a rate: another context
_MEMORY = 0.5  # of the life that was expected, when another context has come
_ROUNDING = 1e-9  # of a step's time


@dataclass(frozen=True)
class Following:
    """The plan that a run follows."""

    cut: int
    cut_name: str
    codec_up: str
    codec_down: str
    stale_it: int


@dataclass(frozen=True)
class Verdict:
    """What came of a look at the plan."""

    plan: Plan
    """The one to follow from now on."""
    switch: bool
    reason: str


class Speed:
    """How fast a device really is beside its profile: other programs, heat, clocks.

    A factor for all of its times, from the stage times of the steps of a plan; smoothed over some looks.
    """

    def __init__(self) -> None:
        self.factor = 1.0

    def see(self, measured_s: float, predicted_s: float) -> None:
        """Compare a stage with what the profile as it is now would have."""
        if measured_s > 0 and predicted_s > 0:
            self.factor *= math.sqrt(min(max(measured_s / predicted_s, 0.1), 10.0))

    def of(self, profile: Profile) -> Profile:
        """The profile at this speed."""
        return scaled(profile, self.factor)


class Life:
    """How long a context lasts: the mean of the times between changes that were seen, the last ones most."""

    def __init__(self) -> None:
        self.expected_s = FIRST_LIFE_S
        self._since_s: float | None = None
        self._context: LinkContext | None = None

    def see(self, context: LinkContext, now_s: float) -> None:
        """Look at the link now."""
        if self._context is None or self._since_s is None:
            self._context, self._since_s = context, now_s
            return
        lasted_s = now_s - self._since_s
        if _differs(context, self._context):
            self.expected_s = _MEMORY * self.expected_s + (1 - _MEMORY) * lasted_s
            self._context, self._since_s = context, now_s
        else:
            self.expected_s = max(self.expected_s, lasted_s)


class Adapter:
    """Decides again and again while a run trains.

    Args:
        problem: devices and limits; its context and current plan are those of the moment.
        strategy: chooses plans.
        least_gain: see `LEAST_GAIN`.
    """

    def __init__(self, problem: Problem, strategy: Strategy, *, least_gain: float = LEAST_GAIN) -> None:
        self._problem, self._strategy, self._least_gain = problem, strategy, least_gain
        self.edge, self.cloud, self.life = Speed(), Speed(), Life()
        self._favoured: tuple[object, ...] = ()

    def first(self, context: LinkContext, spread: Spread = STEADY) -> Plan:
        """The plan to begin with.

        Args:
            context: the link as a first look at it shows it.
            spread: how far its rates were from that.
        """
        return self._best(self._now(context), self._swings(at_first(spread)))

    def reckon_with(self, partners: Partners) -> None:
        """Others train the same model, and this is how fast they are now."""
        self._problem = replace(self._problem, partners=partners)

    def own_step_s(self, context: LinkContext, spread: Spread = STEADY) -> float:
        """How long a step would be by the best plan, if it were up to this edge.

        Raises:
            UsageError: no plan is within the limits.
        """
        problem = self._now(context)
        own = replace(problem, partners=replace(problem.partners or ALONE, step_s=0.0))
        return self._best(own, self._swings(spread)).prediction.step_s

    def predict(self, following: Following, context: LinkContext) -> Plan:
        """What is expected of the plan that a run follows.

        Raises:
            UsageError: the profiles do not have this plan.
        """
        return self._predicted(following, self._now(context))

    def _predicted(self, following: Following, problem: Problem) -> Plan:
        fixed = Fixed(following.cut, following.codec_up, following.codec_down, following.stale_it)
        if following.cut in [problem.edge.cuts[place] for place in problem.local]:
            # Nothing is encoded, and nothing stale.
            fixed = replace(fixed, codec_up="none", codec_down="none", stale_it=0)
        return fixed.decide(problem)

    def measured(self, following: Following, context: LinkContext, edge_s: float, cloud_s: float) -> None:
        """The stage times of steps under the plan that a run follows."""
        expected = self.predict(following, context).prediction.stages_s
        self.edge.see(edge_s, expected.edge)
        self.cloud.see(cloud_s, expected.cloud)

    def look(
        self, following: Following, context: LinkContext, now_s: float, remaining: float, spread: Spread = STEADY
    ) -> Verdict:
        """Whether to go on or to switch.

        Args:
            following: the plan of the moment.
            context: the link of the moment.
            now_s: an instant.
            remaining: steps that the run has before it.
            spread: how far its rates usually are from the context's.
        """
        self.life.see(context, now_s)
        swings = self._swings(spread)
        partners = self._problem.partners or ALONE
        now = swings.averaged(self.predict(following, context), context, partners)
        step_s = now.prediction.step_s
        life_steps = min(remaining, self.life.expected_s / step_s)
        try:
            best = self._best(replace(self._now(context), current=Current(following.cut, life_steps)), swings)
        except UsageError as error:
            return Verdict(now, False, f"no other plan: {error}")
        if self._suffices(now, best, context, swings):
            return self._relax(now, best)
        return self._weigh(now, best, life_steps, comes_back=life_steps < remaining)

    def _suffices(self, now: Plan, best: Plan, context: LinkContext, swings: Swings) -> bool:
        """Whether another plan makes no step longer, as the others' are longer than its own by more than noise."""
        partners = self._problem.partners
        if partners is None or _kind(best) == _kind(now):
            return False
        if abs(best.prediction.step_s - now.prediction.step_s) > _ROUNDING * now.prediction.step_s:
            return False
        alone = replace(partners, step_s=0.0)
        following = Following(best.cut, best.cut_name, best.codec_up, best.codec_down, best.stale_it)
        own = self._predicted(following, replace(self._now(context), partners=alone))
        own_s = swings.averaged(own, context, alone).prediction.step_s
        return own_s <= (1 - self._least_gain) * partners.step_s

    def _relax(self, now: Plan, best: Plan) -> Verdict:
        words = f"{best} would be enough, as the other parties take as long"
        if self._favoured != _kind(best):
            self._favoured = _kind(best)
            return Verdict(now, False, f"{words}; it waits for a second look")
        self._favoured = ()
        return Verdict(best, True, words)

    def _weigh(self, now: Plan, best: Plan, life_steps: float, *, comes_back: bool) -> Verdict:
        kind = _kind(best)
        if kind == _kind(now):
            self._favoured = ()
            return Verdict(now, False, "the best plan is the one that it has")
        gain_s = now.prediction.step_s - best.prediction.step_s
        share, won_s = gain_s / now.prediction.step_s, gain_s * life_steps
        # Where the context ends before the run does, another switch follows, most often back.
        cost_s = best.prediction.pause_s * (2 if comes_back else 1)
        words = f"{best} would gain {100 * share:.0f} % of a step, {won_s:.1f} s in {life_steps:.0f} steps"
        if share < self._least_gain:
            self._favoured = ()
            return Verdict(now, False, f"{words}: too little to tell from noise")
        if won_s <= cost_s:
            self._favoured = ()
            return Verdict(now, False, f"{words}, and cost {_pause(cost_s, comes_back)}")
        if self._favoured != kind:
            self._favoured = kind
            return Verdict(now, False, f"{words} against {_pause(cost_s, comes_back)}; it waits for a second look")
        self._favoured = ()
        return Verdict(best, True, f"{words} against {_pause(cost_s, comes_back)}")

    def _swings(self, spread: Spread) -> Swings:
        """Where something else than time counts, plans are for the estimate alone."""
        return Swings.of(spread if self._problem.objective.goal == "time" else STEADY)

    def _best(self, problem: Problem, swings: Swings) -> Plan:
        """The plan with the least mean step, its share of the pause included, of those that are best at some rate."""
        link, remaining = problem.context, problem.current.remaining if problem.current else 1.0
        found = [self._strategy.decide(replace(problem, context=each)) for each in swings.contexts(link)]
        if len(found) == 1:
            return found[0]
        kinds = dict.fromkeys(_kind(each) for each in found)
        here = (replace(Fixed(*kind).decide(problem), strategy=self._strategy.name) for kind in kinds)
        averaged = [swings.averaged(each, link, problem.partners or ALONE) for each in here]
        return min(averaged, key=lambda each: each.prediction.step_s + each.prediction.pause_s / max(remaining, 1.0))

    def _now(self, context: LinkContext) -> Problem:
        problem = self._problem
        edge, cloud = self.edge.of(problem.edge), self.cloud.of(problem.cloud)
        return replace(problem, edge=edge, cloud=cloud, context=context)


def scaled(profile: Profile, factor: float) -> Profile:
    """A profile of a device that takes ``factor`` times as long for everything."""
    if factor == 1.0:
        return profile

    def coded(codec: CodecCost) -> CodecCost:
        return CodecCost(codec.nbytes, factor * codec.encode_s, factor * codec.decode_s)

    times = ("head_s", "head_kept_s", "tail_s", "head_forward_s", "tail_forward_s")
    return replace(
        profile,
        **{name: np.multiply(factor, getattr(profile, name)) for name in times},
        activations={name: coded(codec) for name, codec in profile.activations.items()},
        gradients={name: coded(codec) for name, codec in profile.gradients.items()},
    )


def _kind(plan: Plan) -> tuple[int, str, str, int]:
    """What makes a plan another one."""
    return plan.cut, plan.codec_up, plan.codec_down, plan.stale_it


def _pause(seconds: float, comes_back: bool) -> str:
    return f"pauses of {seconds:.1f} s, there and back" if comes_back else f"a pause of {seconds:.1f} s"


def _differs(one: LinkContext, other: LinkContext) -> bool:
    pairs = ((one.up_mbps, other.up_mbps), (one.down_mbps, other.down_mbps))
    return any(abs(a - b) > _CHANGED * max(a, b) for a, b in pairs)
