"""When a link is probed, and what probes alone tell of it: arithmetic on instants, no clock."""

from collections.abc import Callable

import pytest

from common.planning.context import LEAST_S, PROBE_BYTES, Rate
from common.planning.probes import EVERY_S, LEAST_BYTES, PROBE_S, SHARE, SURVEY_PROBE_S, Probes
from tests.test_context import CHANGE_AT_S, MBPS, Link, step, transfer


def probed(
    link: Link, until_s: float, moved: Callable[[float], int] = lambda _: 0, *, lost_bytes: int = 5000
) -> tuple[list[tuple[float, int, float]], Rate]:
    """Instant, size and end of each probe over a link that is asked every 2 s, and what is known then.

    Of each, as many bytes as the first segment has come before the time begins.
    """
    rate, sent = Rate(), []
    probes = Probes(rate, 0.0)
    now_s = 0.0
    while now_s < until_s:
        if size := probes.due(now_s, moved(now_s)):
            end_s, begun_s = transfer(link, now_s, size), transfer(link, now_s, min(lost_bytes, size))
            told = rate.add(size - min(lost_bytes, size), end_s - begun_s, end_s, probe=True)
            probes.came(size, 8 * (size - lost_bytes) / (end_s - begun_s) if told else 0.0, end_s)
            sent.append((now_s, size, end_s))
        now_s += 2.0
    return sent, rate


@pytest.mark.parametrize("mbps", [0.5, 2, 20, 100, 300, 1000])
def test_an_idle_link_is_known_soon(mbps: float) -> None:
    sent, rate = probed(step(mbps, mbps), 20.0, lost_bytes=int(mbps * MBPS / 8 * 0.002))
    assert rate.bps == pytest.approx(mbps * MBPS, rel=0.05)
    assert sent[0][:2] == (0.0, LEAST_BYTES)


@pytest.mark.parametrize("mbps", [0.05, 0.5, 2, 20, 100, 300, 1000, 10_000])
def test_they_take_a_small_share_of_it(mbps: float) -> None:
    sent, _ = probed(step(mbps, mbps), 400.0)
    steady = [each for each in sent if each[0] > 40]
    share = sum(end_s - now_s for now_s, _, end_s in steady) / (400 - 40)
    assert 0 < share <= 1.2 * (SHARE if mbps < 5 else PROBE_S / EVERY_S)
    assert max(size for _, size, _ in sent) <= PROBE_BYTES


def test_on_a_link_too_fast_to_tell_they_end_at_the_largest() -> None:
    sent, rate = probed(step(20_000, 20_000), 40.0)
    assert [size for _, size, _ in sent[:3]] == [LEAST_BYTES, 1 << 18, 1 << 20]
    assert rate.bps == pytest.approx(8 * PROBE_BYTES / LEAST_S, rel=0.05)
    assert len(sent) <= 3 + 40 / EVERY_S


@pytest.mark.parametrize(("before", "behind"), [(20, 5), (5, 20), (20, 2), (300, 20), (300, 5), (2, 300)])
def test_another_link_is_known_within_ten_seconds(before: float, behind: float) -> None:
    for shift_s in (0.0, 1.0, 2.0, 3.0):
        change_s = CHANGE_AT_S + shift_s
        _, rate = probed(step(before, behind, change_s), change_s + 10)
        assert rate.bps == pytest.approx(behind * MBPS, rel=0.1)


def test_a_probe_in_a_bad_moment_is_one_of_many() -> None:
    """It takes three times as long for its bytes as the others, and is no more of the time that a transfer meets."""
    rate = Rate()
    for number in range(40):
        mbps = (10.0, 30.0)[number % 2]
        rate.add(60_000, 8 * 60_000 / (mbps * MBPS), 4.0 * number, probe=True)
        if number > 10:
            assert rate.bps == pytest.approx(20 * MBPS, rel=0.25)
    transfers = Rate()
    for number in range(40):
        mbps = (10.0, 30.0)[number % 2]
        transfers.add(int(mbps * MBPS / 8), 1.0, 1.0 * number)
    assert transfers.bps == pytest.approx(20 * MBPS, rel=0.1)


def test_what_transfers_told_gives_way_to_probes() -> None:
    """As where all has moved to the edge: transfers had all of the time before, probes have little of it."""
    rate, now_s = Rate(), 0.0
    for number in range(60):
        now_s += 0.5
        rate.add(*_bytes_and_seconds((1.0, 3.0)[number % 2]), now_s)
    for _ in range(10):
        now_s += 4.0
        rate.add(40_000, 8 * 40_000 / (4 * MBPS), now_s, probe=True)
    assert rate.bps == pytest.approx(4 * MBPS, rel=0.1)


def test_a_survey_is_made_of_probes_that_suit_the_link() -> None:
    rate = Rate()
    probes = Probes(rate, 0.0)
    assert probes.survey() == LEAST_BYTES
    rate.add(250_000, 0.1, 0.0, probe=True)
    assert probes.survey() == pytest.approx(20 * MBPS / 8 * SURVEY_PROBE_S, rel=0.01)
    rate.add(125_000_000, 0.1, 1.0, probe=True)
    assert probes.survey() == PROBE_BYTES


def _bytes_and_seconds(mbps: float) -> tuple[int, float]:
    return 60_000, 8 * 60_000 / (mbps * MBPS)


def test_none_where_transfers_tell() -> None:
    rate = Rate()
    probes = Probes(rate, 0.0)
    for second in range(100):
        rate.add(250_000, 0.1, float(second))
        assert not probes.due(float(second), 1 << 20)


def test_none_beside_a_long_transfer_for_some_time() -> None:
    sent, _ = probed(step(20, 20), 100.0, lambda now_s: 1 << 20)
    assert 30 <= sent[0][0] <= 34


def test_but_where_transfers_are_too_short_to_tell() -> None:
    rate = Rate()
    probes = Probes(rate, 0.0)
    rate.add(100_000, 0.003, 1.0)
    assert probes.due(2.0, 1 << 20)


def test_some_bytes_now_and_then_are_no_traffic() -> None:
    sent, _ = probed(step(20, 20), 10.0, lambda now_s: 5000)
    assert sent[0][0] == 0.0
