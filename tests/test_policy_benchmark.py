"""The arithmetic of runs over a trace, and what is compared there."""

import pytest

from benchmarks.policy import Job, adapt, compare, fixed_plans, foresee, run
from benchmarks.policy_line import Lane, LinkView, Pipeline, Work
from common.link.trace import Trace
from common.planning.cost import step_time
from common.planning.plan import Plan
from common.planning.strategies import Fixed, Ours
from tests.test_adapt import PROBLEM

RTT_S = 0.04


def steady(mbps: float) -> Trace:
    return Trace([0.0, 100.0], [0.0, 100.0 * mbps * 1e6 / 8])


def halves(first: float, second: float) -> Trace:
    """Mbit/s of 50 s each."""
    return Trace([0.0, 50.0, 100.0], [0.0, 50 * first * 1e6 / 8, 50 * (first + second) * 1e6 / 8])


def job(trace: Trace, steps: int, phases: tuple[float, ...] = (0.0,)) -> Job:
    return Job(PROBLEM, trace, trace, steps, phases, 2.0)


def work(stale_it: int, *, edge_s: float = 0.1, state_bytes: float = 0.0) -> Work:
    return Work(edge_s, 0.05, 500_000.0, 250_000.0, stale_it, False, state_bytes)


class TestLane:
    def test_it_begins_at_its_phase(self) -> None:
        assert Lane(halves(8, 4), 0.0).send(0.0, 1e6) == pytest.approx((0.0, 1.0))
        assert Lane(halves(8, 4), 50.0).send(0.0, 1e6) == pytest.approx((0.0, 2.0))
        assert Lane(halves(8, 4), 49.5).send(0.0, 1e6) == pytest.approx((0.0, 1.5))

    def test_before_time_0_is_what_comes_before_the_phase(self) -> None:
        assert Lane(halves(8, 4), 0.0).send(-2.0, 1e6) == pytest.approx((-2.0, 0.0))
        assert Lane(halves(8, 4), 0.0).mean_bps(-1.0, 2.0) == pytest.approx(6e6)

    def test_one_message_behind_the_other(self) -> None:
        lane = Lane(steady(8), 30.0)
        lane.send(0.0, 2e6)
        assert lane.send(0.5, 1e6) == pytest.approx((2.0, 3.0))


class TestPipeline:
    @pytest.mark.parametrize("stale_it", [0, 1, 2, 4])
    def test_a_step_takes_what_the_closed_form_says(self, stale_it: int) -> None:
        line = Pipeline(LinkView(Lane(steady(20), 0.0), Lane(steady(20), 0.0), RTT_S), work(stale_it))
        for _ in range(100):
            line.step()
        begun_s = line.now_s
        for _ in range(100):
            line.step()
        expected_s = step_time((0.1, 0.2, 0.05, 0.1), RTT_S, stale_it)
        assert (line.now_s - begun_s) / 100 == pytest.approx(expected_s, rel=0.02)

    def test_a_change_waits_for_what_is_under_way_and_for_the_state(self) -> None:
        line = Pipeline(LinkView(Lane(steady(20), 0.0), Lane(steady(20), 0.0), RTT_S), work(1))
        line.step()
        one_way_s = 0.1 + 0.2 + 0.05 + 0.1 + RTT_S
        line.change(work(1, state_bytes=1e6))
        assert line.now_s == pytest.approx(one_way_s + RTT_S + 8 / 20 + RTT_S / 2)

    def test_on_the_edge_nothing_is_sent(self) -> None:
        view = LinkView(Lane(steady(20), 0.0), Lane(steady(20), 0.0), RTT_S)
        line = Pipeline(view, Work(0.3, 0.0, 0.0, 0.0, 0, True, 0.0))
        for _ in range(10):
            line.step()
        assert line.now_s == pytest.approx(3.0)
        assert view.estimate.context(3.0).up_bps is None


class TestView:
    def test_a_survey_knows_a_steady_link(self) -> None:
        known = LinkView(Lane(steady(20), 5.0), Lane(steady(5), 5.0), RTT_S).survey()
        assert known.up_bps == pytest.approx(20e6, rel=0.01)
        assert known.down_bps == pytest.approx(5e6, rel=0.01)
        assert known.rtt_s == RTT_S

    def test_what_has_not_come_is_not_known(self) -> None:
        view = LinkView(Lane(steady(8), 0.0), Lane(steady(8), 0.0), RTT_S)
        came_s = view.transfer("up", 0.5, 1e6)
        assert view.at(came_s - 0.01).up_bps is None
        assert view.at(came_s).up_bps == pytest.approx(8e6)

    def test_where_nothing_is_sent_probes_tell(self) -> None:
        view = LinkView(Lane(halves(8, 4), 40.0), Lane(halves(8, 4), 40.0), RTT_S)
        view.survey()
        assert view.at(9.0).down_bps == pytest.approx(8e6, rel=0.01)
        assert view.at(21.0).down_bps == pytest.approx(4e6, rel=0.1)


class TestPlans:
    def test_a_run_by_hand(self) -> None:
        plan = local()
        seconds, switches = run(job(steady(20), 50), LinkView(Lane(steady(20), 0), Lane(steady(20), 0), RTT_S), plan)
        assert seconds == pytest.approx(50 * plan.prediction.step_s)
        assert switches == 0

    def test_each_fixed_plan_once_and_all_on_the_edge(self) -> None:
        plans = fixed_plans(job(steady(20), 10), [0.1, 5.0, 50.0, 50.0], [0.1, 5.0, 50.0, 50.0])
        assert len({str(each) for each in plans}) == len(plans)
        assert [each.local for each in plans].count(True) == 1
        assert plans[-1].local

    def test_on_a_steady_link_the_first_plan_is_the_best(self) -> None:
        here = job(steady(30), 60)
        best = Ours().decide(here.problem)
        expected_s, _ = run(here, here.view(0.0), best)
        adaptive_s, switches = adapt(here, 0.0)
        assert switches == 0
        assert adaptive_s <= 1.2 * expected_s
        assert adapt(here, 0.0, stays=True)[0] == adaptive_s

    def test_a_link_that_changes_for_good_is_followed(self) -> None:
        """Too slow for anything, then fast: 10 s to see it, and the state to move."""
        here = job(halves(0.2, 200), 150, (30.0,))
        stays_s, _ = adapt(here, 30.0, stays=True)
        follows_s, switches = adapt(here, 30.0)
        assert switches == 1
        assert follows_s < 0.7 * stays_s
        plans = fixed_plans(here, [0.2, 200.0], [0.2, 200.0])
        assert foresee(here, 30.0, plans) < follows_s

    def test_a_row(self) -> None:
        here = job(halves(2, 20), 30, (0.0, 50.0))
        row = compare("it", here, fixed_plans(here, [2.0, 20.0], [2.0, 20.0]))
        assert row.worst_fixed >= 1
        assert row.best_s > 0
        assert all(0.3 < each < 3 for each in (row.adaptive, row.first, row.at_the_mean, row.foresight))


def local() -> Plan:
    return Fixed(3).decide(PROBLEM)


def test_the_run_begins_behind_the_look() -> None:
    """What the look sends is over before the first step."""
    view = LinkView(Lane(steady(20), 0.0), Lane(steady(20), 0.0), RTT_S)
    view.survey()
    begun_s, _ = view.lanes["up"].send(0.0, 1e5)
    assert begun_s == 0.0
