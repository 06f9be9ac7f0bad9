"""What a link that swings makes of a plan: means over its rates, and what is expected of a first look."""

from dataclasses import replace

import pytest

from common.planning.adapt import Adapter, Following
from common.planning.context import Spread
from common.planning.cost import step_time
from common.planning.problem import Objective, Power, Problem
from common.planning.strategies import Fixed, Ours
from common.planning.swings import CALM, FIRST_SPREAD, LEAST_SPREAD, STEADY, Swings, at_first
from tests.test_adapt import PROBLEM, link, profile

# Nothing but the input's cut or all on the edge pays; at this rate they cost about the same.
EVEN = Problem(profile("edge", 0.4), profile("cloud", 0.05), link(2.8))


class TestRates:
    def test_a_steady_link_has_one(self) -> None:
        for spread in (STEADY, Spread(None, None), Spread(LEAST_SPREAD / 2, 0.0)):
            assert Swings.of(spread).contexts(link(8)) == [link(8)]

    @pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
    def test_a_byte_takes_as_long_as_by_the_estimate(self, spread: float) -> None:
        factors = Swings.of(Spread(spread, 0.0)).up
        assert len(factors) == 3
        assert sum(1 / each for each in factors) / 3 == pytest.approx(1)
        middle, low, high = factors
        assert low < 1 < middle < high
        assert high / middle == pytest.approx(middle / low) == pytest.approx((1 + spread) ** 1.5)

    def test_directions_swing_by_themselves(self) -> None:
        states = Swings.of(Spread(0.5, 0.2)).contexts(link(8))
        assert len({(each.up_mbps, each.down_mbps) for each in states}) == 9
        assert {each.rtt_ms for each in states} == {10}


class TestMeans:
    def test_what_a_link_bounds_takes_as_long(self) -> None:
        """The uplink is the slowest stage at all rates."""
        plan = Fixed(0, stale_it=16).decide(replace(PROBLEM, context=link(1)))
        swung = Swings.of(Spread(0.3, 0.0)).averaged(plan, link(1))
        assert swung.prediction.step_s == pytest.approx(plan.prediction.step_s)

    def test_what_waits_for_the_slowest_stage_takes_longer(self) -> None:
        plan = Fixed(2, stale_it=4).decide(replace(PROBLEM, context=link(2.2)))
        swings = Swings.of(Spread(0.5, 0.5))
        stages = plan.prediction.stages_s
        steps_s = [
            step_time((stages.edge, stages.uplink / up, stages.cloud, stages.downlink / down), 0.01, 4)
            for up in swings.up
            for down in swings.down
        ]
        mean_s = swings.averaged(plan, link(2.2)).prediction.step_s
        assert mean_s == pytest.approx(sum(steps_s) / 9)
        assert mean_s > 1.05 * plan.prediction.step_s

    def test_all_on_the_edge_does_not_care(self) -> None:
        plan = Fixed(3).decide(PROBLEM)
        assert Swings.of(Spread(1.0, 1.0)).averaged(plan, link(1)) is plan


class TestFirst:
    def test_a_calm_look_is_believed(self) -> None:
        calm = Spread(0.5 * CALM, 0.9 * CALM)
        assert at_first(calm) == calm
        assert at_first(Spread(None, None)) == STEADY

    def test_one_that_swings_will_swing_more(self) -> None:
        assert at_first(Spread(0.2, 0.0)) == Spread(FIRST_SPREAD, FIRST_SPREAD)
        assert at_first(Spread(0.2, 0.9)) == Spread(FIRST_SPREAD, 0.9)


class TestDecisions:
    def test_a_steady_link_is_planned_for_as_ever(self) -> None:
        for mbps in (0.5, 2, 8, 30, 100):
            problem = replace(PROBLEM, context=link(mbps))
            assert str(Adapter(problem, Ours()).first(link(mbps))) == str(Ours().decide(problem))

    def test_a_plan_that_the_link_cannot_hurt_wins_where_it_swings(self) -> None:
        """Close to the rate at which a cut and the edge alone are equal, a link that swings is worth less."""
        mbps = next(each / 10 for each in range(5, 100) if not Ours().decide(at(each / 10)).local)
        rate = 1.02 * mbps
        steady = Adapter(at(rate), Ours()).first(link(rate))
        swung = Adapter(at(rate), Ours()).first(link(rate), Spread(0.6, 0.6))
        assert not steady.local
        assert swung.prediction.step_s > steady.prediction.step_s
        kept = Swings.of(at_first(Spread(0.6, 0.6))).averaged(steady, link(rate))
        assert swung.prediction.step_s <= kept.prediction.step_s

    def test_it_is_the_best_of_those_that_are_best_somewhere(self) -> None:
        spread = Spread(0.7, 0.7)
        for mbps in (1.0, 3.0, 9.0, 27.0):
            chosen = Adapter(at(mbps), Ours()).first(link(mbps), spread)
            swings = Swings.of(spread)
            for state in swings.contexts(link(mbps)):
                other = Ours().decide(replace(at(mbps), context=state))
                fixed = Fixed(other.cut, other.codec_up, other.codec_down, other.stale_it).decide(at(mbps))
                assert chosen.prediction.step_s <= swings.averaged(fixed, link(mbps)).prediction.step_s + 1e-12
            assert chosen.strategy == "ours"

    def test_what_counts_energy_does_not_look_at_swings(self) -> None:
        saving = replace(at(3.0), objective=Objective("energy"), power=Power(5.0, 1.0, 1.0, 1.0))
        assert str(Adapter(saving, Ours()).first(link(3.0), Spread(0.9, 0.9))) == str(Ours().decide(saving))

    def test_a_noisy_link_does_not_make_it_flap(self) -> None:
        """The estimate swings by a fifth around a rate at which two plans are equal."""
        mbps = next(each / 10 for each in range(5, 100) if not Ours().decide(at(each / 10)).local)
        adapter = Adapter(at(mbps), Ours())
        plan = adapter.first(link(mbps), Spread(0.4, 0.4))
        switches = 0
        for number in range(100):
            following = Following(plan.cut, plan.cut_name, plan.codec_up, plan.codec_down, plan.stale_it)
            now = link(mbps * (1.2, 0.85, 1.1, 0.8, 0.95)[number % 5])
            verdict = adapter.look(following, now, 5.0 * number, 1000, Spread(0.4, 0.4))
            switches, plan = switches + verdict.switch, verdict.plan
        assert switches <= 1


def at(mbps: float) -> Problem:
    return replace(EVEN, context=link(mbps))
