"""What binds a plan or pulls at it: unsafe cuts, memory, accuracy, energy, and what a switch costs."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UsageError
from common.planning.losses import LossTable, load_losses
from common.planning.plan import Plan
from common.planning.problem import Current, Goal, Limits, Objective, Power
from common.planning.strategies import Edge, Fixed, Ours
from tests.test_planning import measured, problem

# Constraints


def test_unsafe_cuts_are_not_taken() -> None:
    best = Ours().decide(problem())
    edge, cloud = (measured(speed, unsafe=best.cut).profile("p") for speed in (1, 10))

    other = Ours().decide(replace(problem(), edge=edge, cloud=cloud))

    assert best.cut not in (0, 4)
    assert other.cut != best.cut
    with pytest.raises(UsageError, match="must not be cut"):
        Fixed(best.cut).decide(replace(problem(), edge=edge, cloud=cloud))


def test_memory_lowers_k_before_it_moves_the_cut() -> None:
    free = Ours().decide(problem(link="20/20/200"))
    assert free.stale_it > 1
    tight = Limits(edge_memory_bytes=free.prediction.memory_bytes - 1)

    plan = Fixed(free.cut, free.codec_up, free.codec_down, None).decide(problem(link="20/20/200", limits=tight))

    assert plan.stale_it == free.stale_it - 1
    assert plan.prediction.memory_bytes <= free.prediction.memory_bytes - 1


def test_a_limit_that_nothing_keeps_says_what_would() -> None:
    with pytest.raises(UsageError, match=r"0 MiB of memory on the edge \(the least that any takes is \d MiB\)"):
        Ours().decide(problem(limits=Limits(edge_memory_bytes=1000)))
    with pytest.raises(UsageError, match=r"memory.*the least that any takes is 6 MiB"):
        Edge().decide(problem(limits=Limits(edge_memory_bytes=1e6)))


def test_a_limit_on_accuracy_takes_only_what_was_measured() -> None:
    losses = LossTable({("int8", "int8"): 0.2, ("int4", "int8"): 0.9, ("none", "int4"): -0.1})
    slow = problem(edge_speed=1, link="1/1/10", losses=losses)

    faraway, fast = measured(0.01).profile("edge"), measured(10).profile("cloud")  # all on the cloud

    def codec_up(limit: float | None) -> str:
        return Ours().decide(replace(slow, limits=Limits(loss_points=limit), edge=faraway, cloud=fast)).codec_up

    assert [codec_up(limit) for limit in (None, 1.0, 0.5, 0.1)] == ["int4", "int4", "int8", "none"]
    assert Fixed(3, "int8", "int8").decide(replace(slow, limits=Limits(loss_points=0.5))).prediction.loss_points == 0.2
    with pytest.raises(UsageError, match=r"a loss of 0\.5 points"):
        Fixed(3, "int4", "int8").decide(replace(slow, limits=Limits(loss_points=0.5)))
    with pytest.raises(UsageError, match="without a measured loss"):
        Fixed(3, "int4", "int4").decide(replace(slow, limits=Limits(loss_points=0.5)))
    assert Edge().decide(replace(slow, limits=Limits(loss_points=0.0))).prediction.loss_points == 0


def test_a_table_of_losses_is_read(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("codec_up,model,codec_down,loss_points\nint8,a,int8,0.1\nint8,b,int8,0.3\nnone,a,int4,-0.2\n")

    table = load_losses(path)

    assert table.points == {("int8", "int8"): 0.3, ("none", "int4"): -0.2}
    known = table.of(["none", "int8"], ["none", "int8"])
    assert known[0, 0] == 0.0
    assert known[1, 1] == 0.3
    assert math.isnan(known[0, 1])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("codec_up,loss_points\nint8,1\n", "line 2: a table"),
        ("codec_up,codec_down,loss_points\na,b,x\n", "'x', no number"),
    ],
)
def test_what_is_no_table_of_losses_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        load_losses(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_losses(tmp_path / "none.csv")


# Objective


def decided(goal: Goal, weight: float = 0.5, **others: object) -> Plan:
    # Transmitting is dear, computing cheap: energy wants little to travel, time wants the cloud.
    power = Power(busy_w=1.0, idle_w=0.1, transmit_w=30.0, receive_w=10.0)
    given_ = problem(edge_speed=0.2, link="20/20/10", objective=Objective(goal, weight), power=power)
    return Ours().decide(replace(given_, **others))  # type: ignore[arg-type]


def test_objectives() -> None:
    fastest, frugal, both = decided("time"), decided("energy"), decided("weighted")

    assert fastest.prediction.step_s < frugal.prediction.step_s
    assert frugal.prediction.energy_mj < fastest.prediction.energy_mj
    assert fastest.prediction.step_s <= both.prediction.step_s <= frugal.prediction.step_s
    assert decided("weighted", 0.0).prediction.step_s == fastest.prediction.step_s
    assert decided("weighted", 1.0).prediction.energy_mj == frugal.prediction.energy_mj


def test_energy_needs_a_meter_or_a_power() -> None:
    with pytest.raises(UsageError, match="give the power of the edge"):
        decided("energy", power=None)
    assert math.isnan(decided("time", power=None).prediction.energy_mj)


def test_measured_energy_goes_before_power() -> None:
    edge = measured(1.0, energy_mj=100.0).profile("edge")
    given_ = replace(problem(), edge=edge, power=Power(busy_w=1e6, idle_w=1.0))

    plan = Fixed(2, "int8", "int8", 1).decide(given_)

    # 200 mJ for the 125 ms of two blocks, so 1.6 W for all that the edge computes; 1 W for the rest of the step.
    stages, step_s = plan.prediction.stages_s, plan.prediction.step_s
    assert plan.prediction.energy_mj == pytest.approx(1e3 * (1.6 * stages.edge + 1.0 * (step_s - stages.edge)))


# A run that goes on


def test_a_switch_must_pay_for_itself() -> None:
    given_ = problem(edge_speed=1, link="20/20/10")
    best = Ours().decide(given_)
    away = 3
    assert best.cut != away

    def choice(remaining: float) -> Plan:
        return Ours().decide(replace(given_, current=Current(away, remaining)))

    assert choice(1e6).cut == best.cut
    assert choice(1.0).cut == away
    assert choice(1.0).prediction.pause_s == 0


def test_a_pause_is_state_over_the_link_and_the_pipeline_filling() -> None:
    given_ = replace(problem(link="10/40/20"), current=Current(1, 100))

    down = Fixed(2, "int8", "int8", 1).decide(given_).prediction
    up = Fixed(2, "int8", "int8", 1).decide(replace(given_, current=Current(3, 100))).prediction

    stages = down.stages_s
    way_s = stages.edge + stages.uplink + stages.cloud + stages.downlink + 0.020
    assert down.pause_s == pytest.approx(2 * 40_000 * 8 / 40e6 + way_s - down.step_s)
    assert up.pause_s == pytest.approx(2 * 160_000 * 8 / 10e6 + way_s - down.step_s)


def test_an_unknown_current_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="current cut 9"):
        Ours().decide(problem(current=Current(9, 10)))
