"""What a party makes of the others' pace while it trains: it holds up nobody, and compresses no more than it must."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from common.errors import ProtocolError
from common.link.contexts import LinkContext
from common.planning.adapt import Adapter, Following, Verdict
from common.planning.context import Spread
from common.planning.plan import Plan
from common.planning.problem import Partners, Problem
from common.planning.strategies import Fixed, Ours
from common.planning.swings import STEADY, Swings
from common.profiling.profile import CodecCost, Profile
from common.training.company import Company
from common.training.joint import Joint
from common.training.monitor import LinkMonitor
from common.training.pace import NOT_PLANNED, Pace, Paces, slowest
from common.training.probing import Pinger, answer
from common.training.tail import Tail
from common.training.timed import busy_timer
from common.wire.messages import Ping, Pong
from common.wire.tcp import Connection, expect
from tests.sockets import sockets
from tests.test_adapt import CUTS, PROBLEM, ZEROS, link

CUT = 1
MIDDLE, NARROW = link(8), link(0.8)  # a batch takes 2 s and 20 s there, 0.5 s and 5 s by int8


def profile(of: Profile) -> Profile:
    """With a codec, and one place to cut at."""
    return replace(
        of,
        safe=np.arange(CUTS) == CUT,
        head_s=ZEROS + 0.01,
        activations={**of.activations, "int8": CodecCost(np.array([1e5, 5e5, 5e4, 1e3]), ZEROS, ZEROS)},
        gradients={**of.gradients, "int8": CodecCost(np.array([0, 5e5, 5e4, 1e3]), ZEROS, ZEROS)},
    )


PARTY: Problem = replace(PROBLEM, edge=profile(PROBLEM.edge), cloud=profile(PROBLEM.cloud), partners=Partners())


class Party:
    """Of several, looking at its plan every five seconds."""

    def __init__(self, others: Pace | None, turn_s: float | None = None) -> None:
        self.paces = Paces(others=others)
        self._adapter = Adapter(PARTY, Ours())
        own = None if turn_s is None else (lambda _: turn_s)
        self.company = Company(self._adapter, self.paces, own)
        self._now_s = 0.0
        self.following = Following(CUT, "one", "int8", "int8", 4)

    def look(self, context: LinkContext, spread: Spread = STEADY) -> Verdict:
        self._now_s += 5.0
        self.company.meet(context, spread)
        verdict = self._adapter.look(self.following, context, self._now_s, 1e6, spread)
        if verdict.switch:
            plan = verdict.plan
            self.following = Following(plan.cut, plan.cut_name, plan.codec_up, plan.codec_down, plan.stale_it)
        return verdict

    @property
    def codecs(self) -> tuple[str, str]:
        return self.following.codec_up, self.following.codec_down


class TestLooks:
    def test_who_holds_up_nobody_compresses_no_more_than_that_takes(self) -> None:
        party = Party(Pace(step_s=5.0))
        first, second = party.look(MIDDLE), party.look(MIDDLE)
        assert "it waits for a second look" in first.reason
        assert second.switch
        assert "would be enough, as the other parties take as long" in second.reason
        assert party.codecs == ("none", "none")
        assert second.plan.prediction.step_s == 5.0
        assert not any(party.look(MIDDLE).switch for _ in range(4))

    @pytest.mark.parametrize("spread", [STEADY, Spread(0.3, 0.3)])
    def test_who_gets_slow_begins_to_compress(self, spread: Spread) -> None:
        party = Party(Pace(step_s=5.0))
        party.following = Following(CUT, "one", "none", "none", 2)
        for _ in range(4):
            party.look(MIDDLE, spread)
            assert party.codecs == ("none", "none")
        assert not party.look(NARROW, spread).switch
        assert party.look(NARROW, spread).switch
        assert party.codecs == ("int8", "int8")
        assert party.paces.own.step_s == pytest.approx(5.0, rel=0.2)

    def test_so_does_who_hears_that_the_others_got_faster(self) -> None:
        party = Party(Pace(step_s=5.0))
        party.following = Following(CUT, "one", "none", "none", 2)
        assert not party.look(MIDDLE).switch
        party.paces.others = Pace(step_s=0.1)
        assert not party.look(MIDDLE).switch
        assert party.look(MIDDLE).switch
        assert party.codecs == ("int8", "int8")

    def test_what_would_be_enough_by_a_hair_is_not_gone_back_to(self) -> None:
        """It is not left where it is the plan, either."""
        hair = Pace(step_s=1.02 * 8 * 2_000_300 / 8e6)
        party = Party(hair)
        assert not any(party.look(MIDDLE).switch for _ in range(4))
        party.following = Following(CUT, "one", "none", "none", 2)
        assert not any(party.look(MIDDLE).switch for _ in range(4))

    def test_it_is_no_staler_than_the_others_pace_asks_for(self) -> None:
        party = Party(Pace(step_s=50.0))
        for _ in range(2):
            verdict = party.look(MIDDLE)
        assert verdict.switch
        assert (*party.codecs, party.following.stale_it) == ("none", "none", 0)

    def test_what_it_tells_is_its_own(self) -> None:
        """Whatever the others take; of the party with the labels with their way."""
        for others in (Pace(), Pace(step_s=5.0, turn_s=0.2)):
            party = Party(others)
            party.look(MIDDLE)
            assert party.paces.own.step_s == pytest.approx(0.5, rel=0.01)
            assert party.paces.own.turn_s == 0.0
        owner = Party(Pace(step_s=5.0), turn_s=0.2)
        owner.look(MIDDLE)
        assert owner.paces.own.step_s == pytest.approx(0.5 + 0.1 + 0.2, rel=0.01)
        assert owner.paces.own.turn_s == 0.2

    def test_an_edge_alone_is_not_among_others(self) -> None:
        """A plan that is no better is none to go to."""
        adapter = Adapter(replace(PARTY, partners=None), Ours())
        following = Following(CUT, "one", "int8", "int8", 9)
        for now_s in (0.0, 5.0, 10.0):
            verdict = adapter.look(following, MIDDLE, now_s, 1e6)
            assert not verdict.switch
            assert verdict.plan.stale_it == 9


def test_a_mean_over_the_swings_of_a_link_knows_of_the_others() -> None:
    for partners in (Partners(), Partners(3.0), Partners(0.0, 0.4), Partners(0.0, 0.4, turns_here=True)):
        for stale_it in (0, 1, 6):
            plan: Plan = Fixed(CUT, stale_it=stale_it).decide(replace(PARTY, partners=partners, context=MIDDLE))
            steady = Swings.of(STEADY).averaged(plan, MIDDLE, partners)
            assert steady.prediction.step_s == pytest.approx(plan.prediction.step_s)
            swung = Swings.of(Spread(0.4, 0.4)).averaged(plan, MIDDLE, partners)
            assert swung.prediction.step_s >= steady.prediction.step_s - 1e-9


def test_nobody_hears_before_all_have_told() -> None:
    joint = Joint(cast(Tail, None), 3, None, busy_timer("cpu"))
    assert joint.tell(0, Pace(1.0)) is None
    assert joint.tell(1, Pace(0.0, 0.0)) is None
    assert joint.tell(2, Pace(2.0, 0.3)) == Pace(1.0)
    assert joint.tell(0, Pace(7.0)) == Pace(2.0, 0.3)
    assert joint.tell(1, NOT_PLANNED) == Pace(7.0, 0.3)
    assert slowest([]) == NOT_PLANNED


class TestPings:
    def test_they_carry_paces_both_ways(self) -> None:
        heard: list[Pace] = []

        def tell(pace: Pace) -> Pace | None:
            heard.append(pace)
            return Pace(3.0, 0.1) if len(heard) > 1 else None

        paces = Paces(Pace(2.0, 0.5))
        with sockets() as (near, far):
            mine, theirs = Connection(near), Connection(far)
            pinger = Pinger(mine, LinkMonitor(), paces)
            for others in (None, Pace(3.0, 0.1)):
                pinger._ask(0, 0)
                answer(theirs, theirs.receive(), tell)
                pinger._hear()
                assert paces.others == others
        assert heard == [Pace(2.0, 0.5)] * 2

    @pytest.mark.parametrize("step_s", [-1.0, float("nan"), 1e9])
    def test_what_no_step_can_take_is_refused(self, step_s: float) -> None:
        with sockets() as (near, far):
            mine, theirs = Connection(near), Connection(far)
            mine.send(Ping(1, 0, step_s))
            with pytest.raises(ProtocolError, match="a step is said to take"):
                answer(theirs, theirs.receive())
            pinger = Pinger(theirs, LinkMonitor())
            pinger._ask(0, 0)
            assert expect(mine.receive().frame, Ping).step_s == 0.0
            mine.send(Pong(1, 0.0, step_s=step_s))
            with pytest.raises(ProtocolError, match="a step is said to take"):
                pinger._hear()
