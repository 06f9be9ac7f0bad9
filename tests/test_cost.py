"""The cost of a step, against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.planning import cost
from common.planning.cost import smallest_sufficient_staleness, step_time

STAGES_S = [0.030, 0.042, 0.020, 0.042]  # edge, uplink, cloud, downlink: 134 ms in all, 42 ms the slowest


@pytest.mark.parametrize(("stale_it", "expected_s"), [(0, 0.134), (1, 0.067), (2, 0.134 / 3), (3, 0.042), (9, 0.042)])
def test_more_staleness_hides_more_until_the_slowest_stage_is_left(stale_it: int, expected_s: float) -> None:
    assert step_time(STAGES_S, 0.0, stale_it) == pytest.approx(expected_s, rel=1e-12)


@pytest.mark.parametrize(("rtt_s", "stale_it", "expected_s"), [(0.010, 0, 0.144), (0.066, 1, 0.1), (0.066, 3, 0.05)])
def test_a_round_trip_is_waited_for_like_a_stage(rtt_s: float, stale_it: int, expected_s: float) -> None:
    assert step_time(STAGES_S, rtt_s, stale_it) == pytest.approx(expected_s, rel=1e-12)


def test_a_round_trip_is_not_work() -> None:
    assert step_time([0.01, 0.0, 0.0, 0.0], rtt_s=1.0, stale_it=200) == 0.01


@pytest.mark.parametrize(
    ("stages_s", "rtt_s", "stale_it"),
    [
        (STAGES_S, 0.0, 3),  # 134 / 42 = 3.19: 4 steps under way
        (STAGES_S, 0.1, 5),  # 234 / 42 = 5.57
        ([0.1, 0.1, 0.1, 0.1], 0.0, 3),  # exactly 4, in spite of rounding
        ([0.3, 0.1, 0.1, 0.1], 0.0, 1),  # 0.6 / 0.3
        ([0.5, 0.0, 0.0, 0.0], 0.0, 0),
        ([0.5, 0.0, 0.0, 0.0], 0.01, 1),
        ([0.0, 0.0, 0.0, 0.0], 0.0, 0),
        ([0.0, 0.0, 0.0, 0.0], 0.5, 0),  # no staleness helps where there is no work
    ],
)
def test_the_smallest_sufficient_staleness(stages_s: list[float], rtt_s: float, stale_it: int) -> None:
    assert smallest_sufficient_staleness(stages_s, rtt_s) == stale_it


times_s = st.floats(1e-6, 10.0)


@settings(derandomize=True, deadline=None)
@given(st.lists(times_s, min_size=1, max_size=6), st.floats(0.0, 5.0))
def test_it_is_sufficient_and_the_smallest(stages_s: list[float], rtt_s: float) -> None:
    enough = smallest_sufficient_staleness(stages_s, rtt_s)

    assert step_time(stages_s, rtt_s, enough) == pytest.approx(max(stages_s), rel=1e-6)
    if enough > 0:
        assert step_time(stages_s, rtt_s, enough - 1) > max(stages_s)


@settings(derandomize=True, deadline=None)
@given(st.lists(times_s, min_size=1, max_size=6), st.floats(0.0, 5.0), st.integers(0, 50))
def test_staleness_never_makes_a_step_longer(stages_s: list[float], rtt_s: float, stale_it: int) -> None:
    assert max(stages_s) <= step_time(stages_s, rtt_s, stale_it + 1) <= step_time(stages_s, rtt_s, stale_it)


# Many plans at once


@settings(derandomize=True, deadline=None)
@given(st.lists(st.lists(times_s, min_size=4, max_size=4), min_size=1, max_size=6), st.floats(0.0, 5.0))
def test_many_plans_cost_what_each_does(plans: list[list[float]], rtt_s: float) -> None:
    stages = np.array(plans).T
    slowest, way_s = stages.max(axis=0), stages.sum(axis=0) + rtt_s

    enough = cost.sufficient_staleness(slowest, way_s)

    assert enough.tolist() == [smallest_sufficient_staleness(each, rtt_s) for each in plans]
    for stale_it in (0, 1, 4):
        expected = [step_time(each, rtt_s, stale_it) for each in plans]
        assert cost.step_times(slowest, way_s, stale_it) == pytest.approx(expected)


def test_no_work_needs_no_staleness() -> None:
    assert cost.sufficient_staleness(np.array([0.0]), np.array([0.5])).tolist() == [0.0]


# The published closed form: (r-1) T* + T0 + (ceil(r/(K+1)) - 1) max(0, T0 - (K+1) T*), by hand


@pytest.mark.parametrize(
    ("remaining", "stale_it", "expected_s"),
    [
        (1, 0, 0.134),  # one step is on its way once
        (10, 0, 1.34),  # the serial sum: 9 x 42 + 134 + 9 x (134 - 42) = 1340 ms
        (10, 1, 0.712),  # 9 x 42 + 134 + (5 - 1) x (134 - 84) = 712 ms
        (10, 2, 0.536),  # 9 x 42 + 134 + (4 - 1) x (134 - 126) = 536 ms
        (10, 3, 0.512),  # 9 x 42 + 134: 134 < 4 x 42
        (11, 1, 0.804),  # 10 x 42 + 134 + (6 - 1) x 50 = 804 ms
    ],
)
def test_the_published_total(remaining: int, stale_it: int, expected_s: float) -> None:
    total = cost.paper_total_time(np.array(STAGES_S)[:, None], remaining, stale_it)

    assert total.tolist() == pytest.approx([expected_s], rel=1e-12)


def test_over_many_steps_the_published_total_is_ours_without_a_round_trip() -> None:
    stages = np.array(STAGES_S)[:, None]
    for stale_it in range(5):
        a_step = cost.paper_total_time(stages, 1e7, stale_it)[0] / 1e7
        assert a_step == pytest.approx(step_time(STAGES_S, 0.0, stale_it), rel=1e-5)


# Energy, memory, switches, by hand


def test_energy_of_the_edge() -> None:
    stages = np.array([0.030, 0.042, 0.020, 0.010])[:, None]

    # 8 W x 30 ms + 2 W x (50 - 30) ms + 1 W x 42 ms + 0.5 W x 10 ms = 240 + 40 + 42 + 5 mJ
    assert cost.edge_energy(stages, np.array([0.050]), 8.0, 2.0, 1.0, 0.5).tolist() == pytest.approx([327.0])


def test_memory_of_the_edge_and_the_staleness_that_fits() -> None:
    resident, under_way = np.array([100.0, 100.0, 100.0]), np.array([10.0, 40.0, 0.0])

    assert cost.edge_memory(resident, under_way, 3.0).tolist() == [140.0, 260.0, 100.0]
    assert cost.staleness_that_fits(resident, under_way, 150.0)[:2].tolist() == [4.0, 0.0]
    assert cost.staleness_that_fits(resident, under_way, 139.0)[:2].tolist() == [2.0, -1.0]
    assert cost.staleness_that_fits(resident, under_way, 100.0)[2] >= -1.0
    assert (cost.staleness_that_fits(resident, under_way, 90.0) < 0).all()


def test_a_switch_moves_state_and_fills_the_pipeline_again() -> None:
    # 1 MB at 8 Mbit/s, and 134 ms through all stages where a step of 42 ms would have come out
    pause = cost.switch_time(np.array([1e6]), 8e6, np.array([0.134]), np.array([0.042]))

    assert pause.tolist() == pytest.approx([1.092])
