"""Explanations: what would change a plan does change it there and not before; the program; numbers with units."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config import parse
from common.errors import UsageError
from common.planning.__main__ import Options, make_problem, make_strategy
from common.planning.changes import changes, slowed
from common.planning.explain import explain
from common.planning.plan import Plan
from common.planning.problem import Limits, Problem
from common.planning.published import Published
from common.planning.quantities import rate_mbps, size_bytes, time_ms
from common.planning.strategies import Cloud, Edge, Fixed, JointDnn, Ours
from common.profiling.profile_file import save_profile
from tests.test_planning import measured, problem
from tests.test_planning_published import write_tables


def same(one: Plan, other: Plan) -> bool:
    return (one.cut, one.codec_up, one.codec_down) == (other.cut, other.codec_up, other.codec_down)


# What would change it


@pytest.mark.slow
def test_beyond_each_threshold_another_plan_wins_and_before_it_this_one() -> None:
    given_ = problem(link="10/20/20", limits=Limits(edge_memory_bytes=20e6))
    plan = Ours().decide(given_)

    found = dict(changes(given_, Ours(), plan))

    assert [quantity.name for quantity in found] == [
        "up",
        "down",
        "RTT",
        "speed of the edge",
        "speed of the cloud",
        "memory of the edge",
    ]
    assert sum(map(len, found.values())) >= 6
    for quantity, both in found.items():
        assert len({each.above for each in both}) == len(both)
        for change in both:
            outside = 1.01 if change.above else 1 / 1.01
            there = Ours().decide(quantity.put(given_, change.value))
            assert change.plan is not None
            assert same(there, change.plan)
            assert not same(there, plan)
            assert same(Ours().decide(quantity.put(given_, change.value / outside)), plan)


@pytest.mark.slow
def test_a_threshold_is_that_of_the_closed_form() -> None:
    # Serial training of all on the edge takes 190 ms. Behind block 2: edge 33 + 60 + 2 ms, cloud a tenth of that,
    # 2e5 bytes down at 1 Gbit/s: 1.6 ms. So 190 - 106.1 = 83.9 ms are left to send 1.6 Mbit: 19.07 Mbit/s.
    given_ = problem(edge_speed=1, cloud_speed=10, link="5/1000/0")
    assert JointDnn().decide(given_).local

    (up, found), *_ = changes(given_, JointDnn(), JointDnn().decide(given_))

    (change,) = [each for each in found if each.above]
    assert up.name == "up"
    assert change.plan is not None
    assert change.plan.cut == 2
    assert change.value == pytest.approx(1.6 / 0.0839, rel=0.006)


@pytest.mark.slow
def test_where_nothing_is_allowed_any_more_it_says_so() -> None:
    given_ = problem(limits=Limits(edge_memory_bytes=7e6))
    found = {quantity.name: both for quantity, both in changes(given_, Edge(), Edge().decide(given_))}

    assert found["up"] == []
    (change,) = found["memory of the edge"]
    assert (change.above, change.plan) == (False, None)
    lines = explain(given_, Edge())
    assert any(line.endswith("memory of the edge, no plan is within the limits") for line in lines)
    assert "  up: nothing, within a factor of 100 of 20 Mbit/s" in lines


def test_a_slower_device_takes_longer_for_everything() -> None:
    plain = problem()
    half = replace(plain, edge=slowed(plain.edge, 2.0))

    before, behind = (Fixed(2, "int8", "int8", 1).decide(each).prediction.stages_s for each in (plain, half))

    assert behind.edge == pytest.approx(2 * before.edge)
    assert (behind.uplink, behind.cloud, behind.downlink) == (before.uplink, before.cloud, before.downlink)


# The text


@pytest.mark.slow
def test_an_explanation_has_the_candidates_and_marks_the_choice() -> None:
    given_ = problem(link="10/20/20")
    plan = Ours().decide(given_)

    lines = explain(given_, Ours())

    assert lines[1] == f"ours takes {plan}"
    table = lines[lines.index(next(line for line in lines if line.startswith("The best of each cut"))) + 1 :]
    assert len([line for line in table[1:6] if line.strip()]) == 5
    (chosen,) = [line for line in table[:6] if line.startswith("*")]
    assert chosen.split()[1:3] == [str(plan.cut), plan.cut_name]
    assert any(line.startswith("jointdnn") for line in lines)
    assert any("above" in line and "wins" in line for line in lines)
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.slow
def test_an_explanation_says_why_not() -> None:
    edge, cloud = (measured(speed, unsafe=2).profile("p") for speed in (1.0, 10.0))
    given_ = replace(problem(limits=Limits(edge_memory_bytes=5.5e6)), edge=edge, cloud=cloud)

    lines = explain(given_, Ours())

    reasons = {line.split()[0]: line for line in lines if line.endswith(("not for training", "too much memory"))}
    assert "2" in reasons
    assert any(line.endswith("too much memory") for line in reasons.values())


@pytest.mark.slow
def test_a_long_table_is_shown_around_the_choice() -> None:
    from benchmarks.planning_speed import problem as large  # noqa: PLC0415  only here

    lines = explain(large(60, 2), Ours())

    start = lines.index(next(line for line in lines if line.startswith("The best of each cut")))
    shown = lines[start + 1 : lines.index("", start)]
    assert 10 < len(shown) < 30
    assert any(line.split() == ["..."] for line in shown)


@pytest.mark.slow
def test_other_strategies_are_explained_too(tmp_path: Path) -> None:
    for strategy in (JointDnn(), Cloud(), Fixed(2)):
        assert f"{strategy.name} takes" in explain(problem(), strategy)[1]
    path = write_tables(tmp_path)
    words = f"explain --edge {path}:TX2 --cloud {path}:Cloud --link 800/800/0 --strategy paper".split()
    options = parse(Options, words)
    lines = explain(make_problem(options), make_strategy(options))
    assert lines[1].startswith("paper takes cut 2 (slice 1), int8 up, none down, K = 4")


# The program


def written(folder: Path) -> tuple[Path, Path]:
    edge, cloud = folder / "edge.csv", folder / "cloud.csv"
    save_profile(edge, measured(1.0))
    save_profile(cloud, measured(10.0))
    return edge, cloud


@pytest.mark.slow
def test_flags_become_a_problem(tmp_path: Path) -> None:
    edge, cloud = written(tmp_path)
    losses = tmp_path / "losses.csv"
    losses.write_text("codec_up,codec_down,loss_points\nint8,int8,0.3\n")
    flags = (
        f"explain --edge {edge} --cloud {cloud} --up 10mbit --down 0.02gbit/s --rtt 30ms --stale_it auto "
        f"--codecs_up none int8 --objective weighted --energy_weight 0.25 --power 8 2 1 0.5 --edge_memory 100MiB "
        f"--loss_table {losses} --max_loss 0.5 --current_cut 2 --remaining 500"
    )

    options = parse(Options, flags.split())
    given_ = make_problem(options)

    assert (given_.context.up_mbps, given_.context.down_mbps, given_.context.rtt_ms) == (10, 20, 30)
    assert given_.codecs_up == ("none", "int8")
    assert (given_.stale_it, given_.limits) == (None, Limits(100 * 2**20, 0.5))
    assert given_.losses.points == {("int8", "int8"): 0.3}
    assert given_.current is not None
    assert (given_.current.cut, given_.current.remaining) == (2, 500)
    assert given_.power is not None
    assert given_.power.receive_w == 0.5
    assert given_.edge.source == str(edge)
    assert make_strategy(options) == Ours()
    assert explain(given_, Ours())[1].startswith("ours takes ")


def test_strategies_by_their_flags(tmp_path: Path) -> None:
    edge, cloud = written(tmp_path)
    base = ["explain", "--edge", str(edge), "--cloud", str(cloud)]

    def strategy(flags: str) -> object:
        return make_strategy(parse(Options, [*base, *flags.split()]))

    assert strategy("--strategy paper --qtime 0.3") == Published(0.3)
    assert strategy("--strategy jointdnn") == JointDnn()
    fixed = strategy("--strategy fixed --cut block2 --codecs_up int8 --stale_it 3")
    assert fixed == Fixed("block2", "int8", "none", 3)
    assert strategy("--strategy fixed --cut 2") == Fixed(2, "none", "none", None)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--strategy fixed", "needs --cut"),
        ("--stale_it some", "auto or a whole number"),
        ("--max_loss 1", "needs --loss_table"),
        ("--energy_weight 2", "from 0 to 1"),
        ("--max_stale_it 0", "1 to 1000"),
        ("--power -1 0 0 0", "below 0"),
        ("--up fast", "such as 20mbit"),
        ("--link nowhere", "there is no link"),
    ],
)
def test_flags_without_sense_are_refused(tmp_path: Path, flags: str, complaint: str) -> None:
    edge, cloud = written(tmp_path)
    options = parse(Options, ["explain", "--edge", str(edge), "--cloud", str(cloud), *flags.split()])
    with pytest.raises(UsageError, match=complaint):
        _ = make_problem(options), make_strategy(options)


# Quantities


def test_numbers_with_units() -> None:
    rates = ("20mbit", "1.5 Gbit", "800kbit/s", "64kbps", "2e6bit")
    assert [rate_mbps("up", text) for text in rates[:3]] == [20, 1500, 0.8]
    assert rate_mbps("up", rates[4]) == pytest.approx(2)
    assert [time_ms("rtt", text) for text in ("20ms", "0.5 s", "300us", "0ms")] == pytest.approx([20, 500, 0.3, 0])
    assert [size_bytes("m", text) for text in ("500MiB", "1gb", "10 B")] == [500 * 2**20, 1e9, 10]


@pytest.mark.parametrize("text", ["20", "mbit", "20 miles", "-3mbit", "nanmbit", "1e999mbit", "0mbit", "--mbit"])
def test_other_texts_are_no_rate(text: str) -> None:
    with pytest.raises(UsageError, match="--up"):
        rate_mbps("up", text)


def test_arrays_of_a_slowed_profile_are_new() -> None:
    given_: Problem = problem()
    before = given_.edge.head_s.copy()
    slowed(given_.edge, 3.0)
    assert np.array_equal(given_.edge.head_s, before)
