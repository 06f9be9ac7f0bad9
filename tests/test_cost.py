"""The cost of a step, against values worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
