"""A few seconds of what ``python -m tests.fuzz`` does for as long as one likes."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.wire.framing import FrameReader, feed, pack
from common.wire.messages import Ping
from tests.fuzz.frames import Fuzzer, peak_mb
from tests.fuzz.live import LiveFuzzer
from tests.fuzz.mutate import Seed, hostile, scramble
from tests.fuzz.small import session_frames
from tests.fuzz.small import settings as small_settings
from tests.fuzz.steady import serving
from tests.secure import made

pytestmark = pytest.mark.slow


@pytest.mark.timeout(120)
def test_hostile_frames_end_in_a_message_or_an_error_of_ours() -> None:
    fuzzer = Fuzzer(7)
    fuzzer.run(500)
    before_mb = peak_mb()
    fuzzer.run(4000)
    assert peak_mb() - before_mb < 64
    outcomes = fuzzer.tally.outcomes
    assert outcomes["ProtocolError"] < fuzzer.tally.frames * 0.9, "the frames do not come past the first checks"
    for expected in ("taken as Activations", "taken as Gradients", "taken as Open", "CodecError", "JobRefused"):
        assert outcomes[expected], expected


@pytest.fixture(scope="module")
def fuzzer() -> Fuzzer:
    return Fuzzer(0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rng=st.randoms(use_true_random=False))
def test_so_do_those_that_hypothesis_finds(fuzzer: Fuzzer, rng: random.Random) -> None:
    fuzzer._rng = rng
    fuzzer.one()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("protected", [False, True], ids=["plain", "tls"])
def test_a_live_server_outlives_hostile_clients(tmp_path: Path, protected: bool) -> None:
    server_side, client_side = made(tmp_path / "security") if protected else (None, None)
    with serving(tmp_path / "runs", server_side) as server:
        before_mb = peak_mb()
        fuzzer = LiveFuzzer(server, client_side, 3)
        with fuzzer.steady() as steady:
            for _ in range(60):
                fuzzer.one()
                steady.check()
            fuzzer.finish()
        assert steady.steps > 10
        assert sum(fuzzer.outcomes.values()) == 60
        assert peak_mb() - before_mb < 256
        assert fuzzer.left_over() == 0


class TestMutations:
    def test_of_the_same_seed_are_the_same(self) -> None:
        seeds = [Seed.of(*each) for each in session_frames(small_settings(("int8",))[0])]
        first, second = ([hostile(seeds[-2], seeds, random.Random(i)) for i in range(20)] for _ in range(2))
        assert first == second
        assert len(set(first)) > 15

    def test_leave_the_honest_frame_as_it_was(self) -> None:
        seeds = [Seed.of(*each) for each in session_frames(small_settings(("int8",))[0])]
        before = repr(seeds)
        for i in range(200):
            hostile(seeds[i % len(seeds)], seeds, random.Random(i))
        assert repr(seeds) == before

    def test_an_honest_frame_is_taken(self) -> None:
        data = b"".join(map(bytes, pack(Ping(1))))
        assert feed(FrameReader(), data)[0].message == Ping(1)
        assert scramble(data, random.Random(0)) != data
