"""When a run's plan is changed: gain, cost, the life of the context, and a second look."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.planning.adapt import FIRST_LIFE_S, Adapter, Following, Life, Speed, scaled
from common.planning.plan import Plan
from common.planning.problem import Current, Problem
from common.planning.strategies import Ours
from common.profiling.profile import CodecCost, Floats, Profile

CUTS = 4
ZEROS = np.zeros(CUTS)


def profile(source: str, seconds: float) -> Profile:
    """A model of three equal blocks; less and less crosses."""
    numbers = np.arange(CUTS, dtype=np.float64)
    head: Floats = np.multiply(seconds, numbers)
    megabytes: Floats = np.multiply(1e6, numbers)
    crossing = CodecCost(np.array([4e5, 2e6, 2e5, 4e3]), ZEROS, ZEROS)
    return Profile(
        source=source,
        model="three",
        device=source,
        digest="d",
        batch_size=8,
        cuts=(0, 1, 2, 3),
        names=("input", "one", "two", "three"),
        safe=np.ones(CUTS, bool),
        head_s=np.multiply(1.3, head),
        head_kept_s=head,
        tail_s=np.subtract(seconds * 3, head),
        head_forward_s=ZEROS,
        tail_forward_s=ZEROS,
        parameter_bytes=megabytes,
        optimizer_bytes=megabytes,
        saved_bytes=ZEROS,
        head_mj=ZEROS + np.nan,
        tail_mj=ZEROS + np.nan,
        input_bytes=4e5,
        activations={"none": crossing},
        gradients={"none": replace(crossing, nbytes=np.array([0.0, 2e6, 2e5, 4e3]))},
    )


def link(mbps: float) -> LinkContext:
    return LinkContext("now", mbps, mbps, 10)


PROBLEM = Problem(profile("edge", 0.4), profile("cloud", 0.05), link(100))
ALL_CLOUD = Following(0, "input", "none", "none", 4)
ALL_EDGE = Following(3, "three", "none", "none", 0)


def adapter() -> Adapter:
    return Adapter(PROBLEM, Ours())


class TestLook:
    def test_it_stays_with_the_best(self) -> None:
        steers = adapter()
        first = steers.first(link(100))
        assert first.cut == 0
        following = Following(first.cut, first.cut_name, first.codec_up, first.codec_down, first.stale_it)
        for now_s in range(5):
            verdict = steers.look(following, link(100), float(now_s), 1000)
            assert not verdict.switch
            assert "the best plan" in verdict.reason

    def test_it_switches_at_the_second_look(self) -> None:
        steers = adapter()
        assert not steers.look(ALL_EDGE, link(100), 0.0, 1000).switch
        verdict = steers.look(ALL_EDGE, link(100), 5.0, 1000)
        assert verdict.switch
        assert verdict.plan.cut == 0
        assert "there and back" in verdict.reason

    def test_one_outlier_changes_nothing(self) -> None:
        steers = adapter()
        steers.look(ALL_EDGE, link(100), 0.0, 1000)
        assert not steers.look(ALL_EDGE, link(0.01), 5.0, 1000).switch
        assert not steers.look(ALL_EDGE, link(100), 10.0, 1000).switch

    def test_a_run_that_ends_soon_is_left_alone(self) -> None:
        steers = adapter()
        for now_s in range(4):
            verdict = steers.look(ALL_EDGE, link(1.0), float(now_s), 2)
            assert not verdict.switch

    def test_a_gain_within_the_noise_is_none(self) -> None:
        steers = Adapter(PROBLEM, Ours(), least_gain=0.99)
        for now_s in range(4):
            verdict = steers.look(ALL_EDGE, link(100), float(now_s), 1000)
            assert not verdict.switch
        assert "too little to tell from noise" in verdict.reason

    def test_a_context_that_lasts_no_longer_than_the_pause_is_not_worth_it(self) -> None:
        steers = adapter()
        steers.life.expected_s = 0.5
        for now_s in (0.0, 0.1, 0.2):
            assert not steers.look(ALL_EDGE, link(8), now_s, 1e6).switch

    def test_where_the_context_ends_before_the_run_a_switch_costs_the_way_back_too(self) -> None:
        """The gain until then is more than one pause, and less than two."""
        now, best = adapter().predict(ALL_EDGE, link(30)), _moved(ALL_EDGE, link(30))
        steps = 1.5 * best.prediction.pause_s / (now.prediction.step_s - best.prediction.step_s)
        ends, lasts = adapter(), adapter()
        ends.life.expected_s = steps * now.prediction.step_s
        for now_s in (0.0, 0.1):
            back = ends.look(ALL_EDGE, link(30), now_s, 1e6)
            there = lasts.look(ALL_EDGE, link(30), now_s, steps)
        assert not back.switch
        assert "there and back" in back.reason
        assert there.switch
        assert "against a pause of" in there.reason

    def test_a_plan_that_nobody_has_profiled(self) -> None:
        with pytest.raises(UsageError, match="codec 'int2'"):
            adapter().look(Following(1, "one", "int2", "none", 1), link(100), 0.0, 100)


def _moved(following: Following, context: LinkContext) -> Plan:
    problem = replace(PROBLEM, context=context, current=Current(following.cut, 100))
    return Ours().decide(problem)


class TestSpeed:
    def test_a_device_that_is_slower_than_its_profile(self) -> None:
        steers = adapter()
        for _ in range(8):
            steers.measured(ALL_CLOUD, link(1000), 0.0, 8 * 0.15)
        assert steers.cloud.factor == pytest.approx(8, rel=0.05)
        assert steers.edge.factor == 1.0  # nothing of it was seen
        slow = steers.predict(ALL_CLOUD, link(1000)).prediction
        assert slow.stages_s.cloud == pytest.approx(1.2, rel=0.05)
        for now_s in (0.0, 5.0):
            verdict = steers.look(ALL_CLOUD, link(1000), now_s, 10_000)
        assert verdict.switch
        assert verdict.plan.cut > 0

    def test_absurd_times_do_not_break_it(self) -> None:
        speed = Speed()
        for measured_s, predicted_s in ((1e9, 1e-9), (0.0, 1.0), (1.0, 0.0)):
            speed.see(measured_s, predicted_s)
        assert 1 <= speed.factor <= 4

    def test_all_times_scale_and_nothing_else(self) -> None:
        slow = scaled(PROBLEM.edge, 2.0)
        assert np.array_equal(slow.head_s, 2 * PROBLEM.edge.head_s)
        assert np.array_equal(slow.parameter_bytes, PROBLEM.edge.parameter_bytes)
        assert scaled(slow, 1.0) is slow


class TestLife:
    def test_it_is_what_was_seen(self) -> None:
        life = Life()
        life.see(link(10), 0.0)
        assert life.expected_s == FIRST_LIFE_S
        for i in range(1, 9):
            life.see(link(10 if i % 2 == 0 else 20), 8.0 * i)
        assert life.expected_s == pytest.approx(8.0, rel=0.1)

    def test_small_changes_are_none(self) -> None:
        life = Life()
        for i in range(10):
            life.see(link(10 + i % 2), 20.0 * i)
        assert life.expected_s == 180.0
