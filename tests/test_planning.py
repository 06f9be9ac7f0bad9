"""Strategies, against brute force in plain Python over every cut, codec and K, and by hand."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.planning.problem import Limits, Objective, Partners, Power, Problem
from common.planning.strategies import STRATEGIES, Cloud, Edge, Fixed, JointDnn, Neurosurgeon, Ours
from common.profiling.profile import longer_tail
from common.profiling.rows import About, BlockRow, CodecRow, Measured

CODECS = ("none", "int8", "int4")
NAN = float("nan")


@dataclass(frozen=True)
class Sizes:
    """Of a made-up network of 4 blocks."""

    crosses: tuple[float, ...] = (2e6, 8e5, 2e5, 1e5, 4e3)
    """Bytes at each cut."""
    parameters: tuple[int, ...] = (0, 10_000, 40_000, 160_000, 640_000)
    saved: tuple[int, ...] = (0, 800_000, 400_000, 200_000, 100_000)


def measured(speed: float, sizes: Sizes = Sizes(), energy_mj: float = NAN, unsafe: int | None = None) -> Measured:
    """Blocks of 10, 20, 20 and 10 ms forward at speed 1; backward passes take twice that, updates 1 ms."""
    rows = []
    for cut, forward_ms in enumerate((0, 10, 20, 20, 10)):
        codecs: dict[str, CodecRow] = {}
        for i, name in enumerate(CODECS):
            nbytes, coding_s = sizes.crosses[cut] / (1, 4, 8)[i], 1e-3 * i / speed
            down = (nbytes, coding_s, coding_s / 2) if cut else (0.0, 0.0, 0.0)
            codecs[name] = CodecRow(nbytes, coding_s, coding_s / 2, *down)
        forward_s = forward_ms / 1e3 / speed
        rows.append(
            BlockRow(
                cut,
                f"block{cut}" if cut else "input",
                "both sides use a weight" if cut == unsafe else "",
                forward_s,
                forward_s * 1.1,
                forward_s * 2,
                1e-3 / speed if cut else 0.0,
                sizes.parameters[cut],
                sizes.parameters[cut],
                sizes.saved[cut],
                energy_mj if cut else 0.0 * energy_mj,
                codecs,
            )
        )
    return Measured(About("made up", "d", 32, "cpu", "made up", 1, 1, "stage", "SGD", "", {}), tuple(rows))


def problem(edge_speed: float = 1.0, cloud_speed: float = 10.0, link: str = "20/40/20", **others: object) -> Problem:
    up, down, rtt = (float(each) for each in link.split("/"))
    edge, cloud = measured(edge_speed).profile("edge"), measured(cloud_speed).profile("cloud")
    return replace(Problem(edge, cloud, LinkContext(link, up, down, rtt), message_bytes=0), **others)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Brute:
    """A candidate, worked out step by step."""

    cut: int
    up: str
    down: str
    stale_it: int
    step_s: float
    memory: float


def brute(edge: Measured, cloud: Measured, link: LinkContext, most: int) -> Iterator[Brute]:
    """All candidates, each K of its own, from the rows and not from a profile."""
    last = len(edge.rows) - 1
    for cut in range(last + 1):
        before, behind = edge.rows[: cut + 1], cloud.rows[cut + 1 :]
        resident: float = 2 * sum(r.parameter_bytes for r in before) + sum(
            r.optimizer_bytes + r.saved_bytes for r in before
        )
        crossing = edge.rows[cut].codecs["none"]
        resident += (crossing.activation_bytes if cut else 0) + crossing.gradient_bytes
        inputs = edge.rows[0].codecs["none"].activation_bytes
        for up in CODECS:
            for down in CODECS:
                here, there = edge.rows[cut].codecs, cloud.rows[cut].codecs
                for stale_it in range(most + 1):
                    head = sum(r.replay_s + r.backward_s + r.optimizer_s for r in before)
                    head += sum(r.forward_s for r in before) if stale_it else 0
                    if cut == last:
                        if stale_it == 0:
                            yield Brute(cut, "none", "none", 0, head, resident + inputs)
                        continue
                    stages = [
                        head + here[up].activation_encode_s + here[down].gradient_decode_s,
                        here[up].activation_bytes * 8 / link.up_bps,
                        sum(r.replay_s + r.backward_s + r.optimizer_s for r in behind)
                        + there[up].activation_decode_s
                        + there[down].gradient_encode_s,
                        here[down].gradient_bytes * 8 / link.down_bps,
                    ]
                    way = sum(stages) + link.rtt_ms / 1e3
                    step = max(*stages, way / (stale_it + 1)) if stale_it else way
                    memory = resident + (stale_it + 1) * (inputs + here[up].activation_bytes)
                    yield Brute(cut, up, down, stale_it, step, memory)


rates = st.sampled_from([0.5, 2.0, 10.0, 40.0, 150.0, 900.0])


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    rates,
    rates,
    st.sampled_from([0.0, 5.0, 60.0]),
    st.sampled_from([0.1, 1.0, 7.0]),
    st.sampled_from([1.0, 20.0]),
    st.sampled_from([None, 4.5e6, 6.5e6, 9e6]),
)
def test_ours_is_the_best_of_all_candidates(
    up: float, down: float, rtt: float, edge_speed: float, cloud_speed: float, budget: float | None
) -> None:
    given_ = problem(edge_speed, cloud_speed, f"{up}/{down}/{rtt}", limits=Limits(edge_memory_bytes=budget))
    rows = brute(measured(edge_speed), measured(cloud_speed), given_.context, given_.max_stale_it)
    fitting = [each for each in rows if budget is None or each.memory <= budget]

    plan = Ours().decide(given_)

    best = min(each.step_s for each in fitting)
    assert plan.prediction.step_s == pytest.approx(best, rel=1e-9)
    # K is the smallest with which this plan takes so long.
    same = [x for x in fitting if (x.cut, x.up, x.down) == (plan.cut, plan.codec_up, plan.codec_down)]
    assert plan.stale_it == min(each.stale_it for each in same if each.step_s <= best * (1 + 1e-8))
    memory = next(each.memory for each in same if each.stale_it == plan.stale_it)
    assert plan.prediction.memory_bytes == pytest.approx(memory)
    assert budget is None or memory <= budget


def test_a_plan_tells_its_stages() -> None:
    # Cut 2 with K = 1: 30 ms forward, 33 replay, 60 backward, 2 updates; int8: 1 ms encode, 0.5 decode.
    plan = Fixed(2, "int8", "int8", 1).decide(problem(link="10/40/20"))

    stages = plan.prediction.stages_s
    assert stages.edge == pytest.approx(0.125 + 0.0015)
    assert stages.uplink == pytest.approx(5e4 * 8 / 10e6)
    assert stages.downlink == pytest.approx(5e4 * 8 / 40e6)
    assert stages.cloud == pytest.approx((0.033 + 0.060 + 0.002) / 10 + 0.00015)
    assert plan.prediction.limit_s == stages.edge
    way = stages.edge + stages.uplink + stages.cloud + stages.downlink + 0.020
    assert plan.prediction.step_s == pytest.approx(max(stages.edge, way / 2))
    assert str(plan).startswith("cut 2 (block2), int8 up, int8 down, K = 1: ")


def test_k_zero_keeps_the_graph_and_waits_for_all_stages() -> None:
    plan = Fixed(2, "int8", "int8", 0).decide(problem(link="10/40/20"))

    stages = plan.prediction.stages_s
    assert stages.edge == pytest.approx(0.095 + 0.0015)  # no second forward pass
    assert plan.prediction.step_s == pytest.approx(stages.edge + stages.uplink + stages.cloud + stages.downlink + 0.020)


def test_baselines() -> None:
    given_ = problem(edge_speed=1, cloud_speed=10, link="20/40/20")
    serial = [each for each in brute(measured(1), measured(10), given_.context, 0) if {each.up, each.down} == {"none"}]

    joint, edge, cloud = (each.decide(given_) for each in (JointDnn(), Edge(), Cloud()))

    assert joint.stale_it == 0
    assert joint.prediction.step_s == pytest.approx(min(each.step_s for each in serial))
    assert (edge.cut, edge.local, edge.stale_it) == (4, True, 0)
    assert edge.prediction.step_s == pytest.approx(0.066 + 0.120 + 0.004)
    assert (cloud.cut, cloud.codec_up, cloud.prediction.stages_s.edge) == (0, "none", 0.0)
    assert cloud.prediction.stages_s.downlink == 0.0
    assert cloud.prediction.limit_s == pytest.approx(2e6 * 8 / 20e6)


def test_neurosurgeon_minimises_the_latency_of_inference() -> None:
    given_ = problem(edge_speed=1, cloud_speed=10, link="20/1/20")
    latency_s = {}
    for cut, forward_ms in enumerate((0, 10, 30, 50, 60)):
        sent_s = 0 if cut == 4 else Sizes().crosses[cut] * 8 / 20e6
        latency_s[cut] = forward_ms / 1e3 + sent_s + (60 - forward_ms) / 1e4

    plan = Neurosurgeon().decide(given_)

    assert plan.cut == min(latency_s, key=lambda cut: latency_s[cut])
    assert (plan.stale_it, plan.codec_up) == (0, "none")
    # In training its cut sends gradients down a link of 1 Mbit/s, which it did not reckon with.
    other = Neurosurgeon().decide(problem(edge_speed=1, cloud_speed=100, link="400/1/20"))
    assert (
        other.prediction.step_s
        > Ours().decide(problem(edge_speed=1, cloud_speed=100, link="400/1/20")).prediction.step_s
    )


def test_neurosurgeon_by_energy() -> None:
    dear_radio = Power(busy_w=0.1, transmit_w=50.0)
    given_ = problem(objective=Objective("energy"), power=dear_radio, link="0.5/10/5")

    assert Neurosurgeon().decide(given_).local
    with pytest.raises(UsageError, match="power of the edge"):
        Neurosurgeon().decide(problem(objective=Objective("energy")))


# The other direction, and what does not fit


def test_an_edge_with_the_tail_computes_what_is_behind_the_cut() -> None:
    """It encodes gradients, which go up with the inputs of another step, and decodes activations, which come down."""
    given_ = problem(edge_speed=1, cloud_speed=10, link="10/40/20", edge_holds="tail")

    plan = Fixed(2, "int4", "int8", 1).decide(given_)

    assert (plan.codec_up, plan.codec_down) == ("int4", "int8")
    stages = plan.prediction.stages_s
    assert stages.edge == pytest.approx(0.033 + 0.060 + 0.002 + 0.002 + 0.0005)  # tail; encode int4, decode int8
    assert stages.uplink == pytest.approx((2.5e4 + 2e6) * 8 / 10e6)  # gradients, and what asks for a step
    assert stages.cloud == pytest.approx((0.030 + 0.033 + 0.060 + 0.002 + 0.001 + 0.001) / 10)  # K = 1: it replays
    assert stages.downlink == pytest.approx(5e4 * 8 / 40e6)  # activations
    way = stages.edge + stages.uplink + stages.cloud + stages.downlink + 0.020
    assert plan.prediction.step_s == pytest.approx(max(stages.uplink, way / 2))
    serial = Fixed(2, "int4", "int8", 0).decide(given_)
    assert serial.prediction.stages_s.cloud == pytest.approx((0.033 + 0.060 + 0.002 + 0.002) / 10)
    assert serial.prediction.step_s == pytest.approx(way - 0.003)
    local = Edge().decide(given_)
    assert (local.cut, local.local) == (0, True)
    assert local.prediction.step_s == pytest.approx(0.066 + 0.120 + 0.004)
    assert Ours().decide(given_).prediction.step_s <= min(local.prediction.step_s, plan.prediction.step_s)
    for strategy in (Cloud(), Neurosurgeon()):
        with pytest.raises(UsageError):
            strategy.decide(given_)


def test_the_codecs_of_a_way_are_those_of_what_goes_it() -> None:
    """``delta`` is of activations and ``ef`` of gradients: an edge with the tail may use them the other way round."""
    edge, cloud = (
        replace(
            each,
            activations={**each.activations, "delta+int8": each.activations["int8"]},
            gradients={**each.gradients, "ef+int8": each.gradients["int8"]},
        )
        for each in (measured(1.0).profile("edge"), measured(10.0).profile("cloud"))
    )
    down = replace(
        problem(edge_holds="tail"), edge=edge, cloud=cloud, codecs_up=("ef+int8",), codecs_down=("delta+int8",)
    )

    plan = Fixed(2, "ef+int8", "delta+int8").decide(down)

    assert (plan.codec_up, plan.codec_down) == ("ef+int8", "delta+int8")
    with pytest.raises(UsageError, match=r"not both profiles have codec 'ef\+int8' up"):
        replace(down, edge_holds="head")


def test_an_edge_with_the_tail_keeps_what_its_loss_compares_with() -> None:
    given_ = problem(edge_holds="tail")
    one, other = (Fixed(2, "none", "none", 3).decide(replace(given_, target_bytes=each)) for each in (0.0, 1e5))
    assert other.prediction.memory_bytes - one.prediction.memory_bytes == 4 * 1e5


def test_a_tail_with_the_loss_takes_longer_at_every_cut() -> None:
    edge = longer_tail(measured(1.0, energy_mj=100.0).profile("edge"), 0.01)
    bare = measured(1.0, energy_mj=100.0).profile("edge")
    assert (edge.tail_s - bare.tail_s).tolist() == pytest.approx([0.01] * 5)
    assert edge.tail_s[-1] == 0.01
    watts = edge.tail_mj / edge.tail_s
    assert watts[0] == watts[-1] == pytest.approx(400 / 0.19)


def test_a_party_keeps_the_pace_of_the_others() -> None:
    """The slowest of all sets the step, so a party that could be faster has no more staleness than that asks for."""
    given_ = problem(edge_speed=10, cloud_speed=10, link="20/40/20", partners=Partners())
    alone = Fixed(2, "none", "none", None).decide(given_)
    stages = alone.prediction.stages_s
    way = stages.edge + stages.uplink + stages.cloud + stages.downlink + 0.020
    assert alone.prediction.limit_s == stages.uplink == pytest.approx(2e5 * 8 / 20e6)
    assert alone.stale_it == 2  # 80 ms; the way takes 2.0 to 3.0 of it

    paced = Fixed(2, "none", "none", None).decide(replace(given_, partners=Partners(step_s=0.15)))
    waits = Fixed(2, "none", "none", None).decide(replace(given_, partners=Partners(step_s=0.25)))
    told = Fixed(2, "none", "none", None).decide(replace(given_, partners=Partners(step_s=0.15, turn_s=0.2)))

    assert 0.16 < way < 0.17
    assert (paced.stale_it, paced.prediction.step_s) == (1, 0.15)
    assert (waits.stale_it, waits.prediction.step_s) == (0, 0.25)
    assert told.stale_it == 2  # 0.36 s of way
    assert told.prediction.step_s == pytest.approx(0.15)


def test_who_has_the_labels_uploads_nothing_while_the_outputs_are_there() -> None:
    given_ = problem(edge_speed=10, cloud_speed=10, link="20/40/20", partners=Partners(turn_s=0.03, turns_here=True))

    plan = Fixed(2, "none", "none", None).decide(given_)

    stages = plan.prediction.stages_s
    assert plan.prediction.step_s == pytest.approx(stages.uplink + stages.cloud + 0.03)
    assert not plan.local


def test_the_last_cut_of_a_party_is_not_the_whole_model() -> None:
    given_ = problem(link="20/40/20", partners=Partners())

    plan = Fixed(4, "int8", "int4", 1).decide(given_)

    assert not plan.local
    assert (plan.codec_up, plan.codec_down, plan.stale_it) == ("int8", "int4", 1)
    assert plan.prediction.stages_s.uplink == pytest.approx(1e3 * 8 / 20e6)
    with pytest.raises(UsageError, match="none of them can compute all of it"):
        Edge().decide(given_)


def test_profiles_of_different_things_are_refused() -> None:
    edge, cloud = measured(1.0).profile("edge"), measured(10.0).profile("cloud")
    for changed, what in (
        (replace(cloud, digest="other"), "models"),
        (replace(cloud, batch_size=8), "batch sizes"),
        (replace(cloud, cuts=(0, 1, 2, 3, 9)), "cuts"),
    ):
        with pytest.raises(UsageError, match=f"different {what}"):
            Problem(edge, changed, LinkContext("", 1, 1, 1))
    with pytest.raises(UsageError, match="codec 'int2' up"):
        problem(codecs_up=("int2",))
    with pytest.raises(UsageError, match="K is -1"):
        problem(stale_it=-1)


def test_a_fixed_plan_names_a_cut_that_there_is() -> None:
    assert Fixed("block3").decide(problem()).cut == 3
    for cut in ("block33", 7):
        with pytest.raises(UsageError, match="no cut"):
            Fixed(cut).decide(problem())


def test_strategies_have_the_names_of_the_registry() -> None:
    assert {name: make().name for name, make in STRATEGIES.items()} == {name: name for name in STRATEGIES}
    assert Fixed(1).name == "fixed"
