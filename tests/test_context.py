"""The estimate of a link from timed transfers and round trips: arithmetic on instants, no clock."""

import math
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from common.planning.context import (
    CHANGE_S,
    CONSTANT_S,
    LEAST_BYTES,
    LEAST_S,
    PROBE_BYTES,
    RTT_S,
    LinkEstimate,
    Rate,
)
from common.planning.log import Context

MBPS = 1e6
CHANGE_AT_S = 30.0

Link = Callable[[float], float]
"""Bits a second at an instant."""


def transfer(link: Link, start_s: float, nbytes: int) -> float:
    """When a transfer ends that begins at an instant."""
    time_s, left_bits, tick_s = start_s, 8.0 * nbytes, 0.002
    while left_bits > 0:
        bits = min(left_bits, link(time_s) * tick_s)
        time_s += tick_s * bits / (link(time_s) * tick_s)
        left_bits -= bits
    return time_s


def estimates(
    link: Link, nbytes: int, pause_s: float, until_s: float, *, noise: float = 0.0, seed: int = 0
) -> Iterator[tuple[float, float, Rate]]:
    """Instant, estimate in Mbit/s, and all that is known, behind each of the transfers, one after the other."""
    rate, rng, time_s = Rate(), random.Random(seed), 0.0
    while time_s < until_s:
        end_s = transfer(link, time_s, nbytes)
        rate.add(nbytes, (end_s - time_s) * (1 + rng.uniform(-noise, noise)), end_s)
        yield end_s, (rate.bps or math.nan) / MBPS, rate
        time_s = end_s + pause_s


def step(before: float, behind: float, at_s: float = CHANGE_AT_S) -> Link:
    return lambda time_s: (before if time_s < at_s else behind) * MBPS


def noisy(seed: int, every_s: float, around: float = 20.0) -> Link:
    rng = random.Random(seed)
    rates = [rng.uniform(0.5, 1.5) * around * MBPS for _ in range(1000)]
    return lambda time_s: rates[int(time_s / every_s)]


TRAFFIC = [(200_000, 0.0), (200_000, 0.3), (1_000_000, 0.5), (20_000, 0.05)]
"""Bytes of a transfer, and seconds until the next one."""


class TestRate:
    def test_nothing_is_known_before_the_first_transfer(self) -> None:
        rate = Rate()
        assert (rate.bps, rate.spread) == (None, None)
        assert LinkEstimate().context(5.0) == Context(None, None, None)

    def test_a_first_transfer_is_all_that_is_known(self) -> None:
        rate = Rate()
        assert rate.add(250_000, 0.1, 1.0)
        assert rate.bps == pytest.approx(20 * MBPS)
        assert rate.told_s == 1.0

    def test_seconds_a_byte_are_weighted_by_bytes(self) -> None:
        """As long as both are of the same moment, the result is their bytes over their seconds."""
        rate = Rate()
        rate.add(1_000_000, 0.4, 0.0)
        rate.add(250_000, 0.105, 0.0)
        assert rate.bps == pytest.approx(8 * 1_250_000 / 0.505)

    def test_the_time_constant(self) -> None:
        rate = Rate()
        rate.add(100_000, 0.0400, 0.0)
        rate.add(100_000, 0.0412, CONSTANT_S)
        weight = math.exp(-1)
        assert rate.bps == pytest.approx(8e5 * (weight + 1) / (0.0400 * weight + 0.0412))

    def test_the_table_of_the_module(self) -> None:
        rate, seen = Rate(), []
        for second, mbps in enumerate((*[20.0] * 12, 9.9, 10.1, 9.9, 10.0)):
            rate.add(int(mbps * MBPS / 8), 1.0, float(second))
            seen.append(round((rate.bps or 0) / MBPS, 1))
        assert seen[-6:] == [20.0, 20.0, 19.9, 19.9, 10.0, 10.0]

    @pytest.mark.parametrize(("nbytes", "pause_s"), TRAFFIC)
    def test_a_constant_link(self, nbytes: int, pause_s: float) -> None:
        seen = list(estimates(step(20, 20), nbytes, pause_s, 20.0, noise=0.1))
        assert all(mbps == pytest.approx(20, rel=0.1) for _, mbps, _ in seen)
        rate = seen[-1][2]
        assert rate.spread == pytest.approx(0.05, abs=0.02)

    @pytest.mark.parametrize(("nbytes", "pause_s"), TRAFFIC)
    @pytest.mark.parametrize(("before", "behind"), [(20, 10), (20, 5), (20, 2), (10, 20), (5, 20), (2, 20), (20, 16)])
    def test_another_link_is_known_within_ten_seconds(
        self, before: float, behind: float, nbytes: int, pause_s: float
    ) -> None:
        seen = [
            (time_s, mbps)
            for time_s, mbps, _ in estimates(step(before, behind), nbytes, pause_s, CHANGE_AT_S + 20, noise=0.05)
        ]
        late = [mbps for time_s, mbps in seen if time_s > CHANGE_AT_S + 10]
        assert late
        assert all(mbps == pytest.approx(behind, rel=0.1) for mbps in late)

    def test_another_link_is_not_known_too_soon(self) -> None:
        """What lasts for less than `CHANGE_S` may be noise."""
        for time_s, mbps, _ in estimates(step(20, 5), 100_000, 0.05, CHANGE_AT_S + CHANGE_S - 0.2):
            assert mbps > 19 or time_s > CHANGE_AT_S + CHANGE_S

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("every_s", [0.2, 1.0])
    @pytest.mark.parametrize(("nbytes", "pause_s"), TRAFFIC[:3])
    def test_a_noisy_link_does_not_swing_it(self, seed: int, every_s: float, nbytes: int, pause_s: float) -> None:
        """Its rates go from 10 to 30 Mbit/s."""
        link = noisy(seed, every_s)
        seen = [mbps for time_s, mbps, _ in estimates(link, nbytes, pause_s, 100.0) if time_s > CONSTANT_S]
        mean, of_link = sum(seen) / len(seen), sum(link(0.1 * i) for i in range(100, 1000)) / 900 / MBPS
        assert 0.85 * of_link < mean < 1.1 * of_link  # a mean through bytes is lower than one through time
        assert min(seen) > 0.75 * mean
        assert max(seen) < 1.35 * mean

    def test_the_spread_tells_a_noisy_link_from_a_calm_one(self) -> None:
        *_, (_, _, calm) = estimates(step(20, 20), 200_000, 0.1, 20.0, noise=0.02)
        *_, (_, _, wild) = estimates(noisy(1, 0.5), 200_000, 0.1, 20.0)
        assert calm.spread is not None
        assert wild.spread is not None
        assert calm.spread < 0.03
        assert wild.spread > 0.15

    @pytest.mark.parametrize("factor", [0.05, 20.0])
    def test_one_transfer_that_was_held_up_or_came_in_a_burst_is_not_another_link(self, factor: float) -> None:
        rate = Rate()
        for i in range(24):
            rate.add(250_000, 0.1, 0.5 * i)
        rate.add(250_000, 0.1 / factor, 12.0)
        assert rate.bps == pytest.approx(20 * MBPS, rel=0.1)
        assert rate.doubted

    def test_one_that_lasts_long_enough_is(self) -> None:
        rate = Rate()
        for i in range(20):
            rate.add(250_000, 0.1, 0.5 * i)
        rate.add(1_000_000, 8.0, 18.0)
        assert rate.bps == pytest.approx(1 * MBPS)

    def test_a_change_does_not_pass_for_noise(self) -> None:
        """The next one is seen as soon."""
        rate, now_s = Rate(), 0.0
        for mbps in (20, 5, 20, 5):
            for _ in range(12):
                now_s += 0.5
                rate.add(int(mbps * MBPS / 8 * 0.4), 0.4, now_s)
            assert rate.bps == pytest.approx(mbps * MBPS, rel=0.05)
        assert rate.spread is not None
        assert rate.spread < 0.1

    def test_behind_a_long_silence_the_next_transfer_counts_alone(self) -> None:
        rate = Rate()
        for i in range(20):
            rate.add(250_000, 0.1, 0.5 * i)
        for after_s in (1e3, 1e5, 1e5 + 4):
            rate.add(125_000, 0.1, after_s)
        assert rate.bps == pytest.approx(10 * MBPS)

    def test_instants_that_go_back_are_taken_for_now(self) -> None:
        rate = Rate()
        rate.add(250_000, 0.1, 10.0)
        rate.add(250_000, 0.1, 9.0)
        assert rate.bps == pytest.approx(20 * MBPS)
        assert rate.told_s == 10.0


class TestShortTransfers:
    def test_few_bytes_say_nothing(self) -> None:
        rate = Rate()
        assert not rate.add(LEAST_BYTES - 1, 1.0, 0.0)
        assert not rate.add(0, 0.0, 0.0)
        assert rate.bps is None

    def test_nor_do_many_in_a_short_time(self) -> None:
        """Of a frame that lay in the kernel's buffers, or was held up behind a receiver that was slow."""
        rate = Rate()
        assert not rate.add(PROBE_BYTES, LEAST_S / 2, 0.0)
        assert rate.bps is None
        assert rate.outrun  # but it is worth a probe

    def test_a_probe_does_say_that_the_link_carries_as_much(self) -> None:
        rate = Rate()
        assert not rate.add(PROBE_BYTES, LEAST_S / 2, 0.0, probe=True)
        assert rate.bps == pytest.approx(8 * PROBE_BYTES / LEAST_S)
        assert not rate.add(PROBE_BYTES // 2, LEAST_S / 10, 1.0, probe=True)  # no news
        assert rate.bps == pytest.approx(8 * PROBE_BYTES / LEAST_S)
        assert not rate.outrun

    def test_transfers_that_are_always_too_short_do_not_count_where_they_are_late(self) -> None:
        """Else those alone would: 60 KB in 3 ms at 160 Mbit/s say nothing, in 7 ms they would say 69 Mbit/s."""
        rate = Rate()
        rate.add(1_000_000, 0.05, 0.0)
        for i in range(100):
            assert not rate.add(60_000, (0.003, 0.003, 0.007)[i % 3], 0.1 * i)
        assert rate.bps == pytest.approx(160 * MBPS)
        assert rate.add(60_000, 0.06, 10.0)  # this is another matter

    def test_the_next_that_tells_answers_the_question(self) -> None:
        rate = Rate()
        rate.add(100_000, 0.08, 0.0)
        rate.add(100_000, 0.004, 1.0)
        assert rate.outrun
        rate.add(500_000, 0.02, 2.0, probe=True)
        assert not rate.outrun

    @pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, 1e300, -1.0])
    @pytest.mark.parametrize("nbytes", [-1, 0, 100_000, 2**63])
    def test_what_a_peer_says_cannot_break_it(self, nbytes: int, seconds: float) -> None:
        rate = Rate()
        rate.add(nbytes, seconds, 0.0)
        for i in range(3):
            rate.add(250_000, 0.1, 1.0 + i)
            rate.add(nbytes, seconds, 1.5 + i, probe=True)
        assert rate.bps is not None
        assert math.isfinite(rate.bps)
        assert rate.bps > 0


class TestRoundTrips:
    def told(self, trips: Sequence[tuple[float, float]], now_s: float) -> float | None:
        estimate = LinkEstimate()
        for at_s, rtt_s in trips:
            estimate.answered(rtt_s, at_s)
        return estimate.context(now_s).rtt_s

    def test_the_shortest_counts(self) -> None:
        assert self.told([(0.0, 0.3), (2.0, 0.041), (4.0, 0.2), (6.0, 0.5)], 6.0) == 0.041

    def test_for_some_time_only(self) -> None:
        trips = [(0.0, 0.04), (2.0, 0.2), (RTT_S, 0.3), (RTT_S + 3, 0.09)]
        assert self.told(trips[:3], RTT_S - 0.1) == 0.04
        assert self.told(trips[:3], RTT_S + 0.1) == 0.2
        assert self.told(trips, RTT_S + 3) == 0.09

    def test_the_last_one_stays_for_want_of_another(self) -> None:
        assert self.told([(0.0, 0.04)], 1e6) == 0.04

    def test_both_directions_and_the_round_trip(self) -> None:
        estimate = LinkEstimate()
        estimate.transferred("up", 125_000, 0.1, 0.0)
        estimate.transferred("down", 500_000, 0.1, 0.0)
        estimate.answered(0.05, 0.0)
        context = estimate.context(1.0)
        assert context.up_bps == pytest.approx(10 * MBPS)
        assert context.down_bps == pytest.approx(40 * MBPS)
        assert context.rtt_s == 0.05
        assert estimate.spread.up == estimate.spread.down
