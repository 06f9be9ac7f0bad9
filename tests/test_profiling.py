"""Measuring a model: what is timed, what is counted, and that the model is left as it was."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from common.errors import PartitionError, UsageError
from common.partition import trace
from common.partition.graph import Graph
from common.profiling.__main__ import table_lines
from common.profiling.counting import energy_mj
from common.profiling.measure import measure
from common.profiling.rows import Measured
from common.profiling.stopwatch import Stopwatch
from common.records import environment

KIB = 1024
make_sgd = partial(SGD, lr=0.0, momentum=0.9)


class Net(nn.Module):
    """Three blocks; the second writes to its input, and the third has dropout and a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.second = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.second(self.first(x)))).flatten(1))  # type: ignore[no-any-return]


def graph_of(model: nn.Module) -> tuple[Graph, tuple[Tensor, ...]]:
    inputs = (torch.rand(4, 3, 8, 8),)
    return trace(model, inputs), inputs


class Ticks:
    """A clock that goes on by one second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def measured(graph: Graph, inputs: tuple[Tensor, ...], **options: object) -> Measured:
    return measure(graph, inputs, make_sgd, model="net", rounds=1, **({"codecs": ("none", "int8")} | options))  # type: ignore[arg-type]


def test_every_block_is_measured_and_the_model_is_left_as_it_was() -> None:
    model = Net().train()
    graph, inputs = graph_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()

    found = measured(graph, inputs)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    rows = found.rows
    assert [row.cut for row in rows] == [0, *graph.slices(graph.blocks)[1:]]
    assert (rows[0].name, rows[0].forward_s, rows[0].parameter_bytes) == ("input", 0.0, 0)
    for row in rows[1:]:
        assert min(row.forward_s, row.replay_s, row.backward_s) > 0
    assert all(math.isnan(row.energy_mj) for row in rows)
    about = found.about
    assert (about.batch_size, about.digest, about.optimizer, about.device) == (4, graph.digest, "SGD", "cpu")


def test_bytes_of_each_block() -> None:
    graph, inputs = graph_of(Net())

    rows = {row.name: row for row in measured(graph, inputs).rows}

    first, second = rows["first"], rows["second.1"]
    assert (first.parameter_bytes, first.optimizer_bytes) == (8 * 3 * 9 * 4, 8 * 3 * 9 * 4)
    assert rows["norm"].parameter_bytes == 4 * 8 * 4 + 8  # weight, bias, mean, variance, count
    crossing = 4 * 8 * 64 * 4
    assert first.codecs["none"].activation_bytes == second.codecs["none"].gradient_bytes == crossing
    assert first.codecs["int8"].activation_bytes < crossing / 3
    assert (rows["input"].codecs["none"].activation_bytes, rows["input"].codecs["none"].gradient_bytes) == (3072.0, 0.0)


def test_a_profile_adds_up_its_rows() -> None:
    graph, inputs = graph_of(Net())
    found = measured(graph, inputs)
    rows, profile = found.rows, found.profile("net.csv")

    for i in range(len(rows)):
        work = sum(row.replay_s + row.backward_s + row.optimizer_s for row in rows[: i + 1])
        assert profile.head_kept_s[i] == pytest.approx(work)
        assert profile.head_s[i] == pytest.approx(work + sum(row.forward_s for row in rows[: i + 1]))
        behind = sum(row.replay_s + row.backward_s + row.optimizer_s for row in rows[i + 1 :])
        assert profile.tail_s[i] == pytest.approx(behind)
        assert profile.tail_forward_s[i] == pytest.approx(sum(row.forward_s for row in rows[i + 1 :]))
    assert profile.local_s == profile.head_kept_s[-1]
    assert profile.whole_s == pytest.approx(profile.local_s)
    assert profile.parameter_bytes[-1] == sum(row.parameter_bytes for row in rows)
    assert profile.input_bytes == 3072
    assert profile.source == "net.csv"


def test_a_frozen_head_only_computes_forward() -> None:
    model = Net()
    model.first.requires_grad_(False)
    graph, inputs = graph_of(model)
    found = measured(graph, inputs)
    profile = found.profile()

    assert found.rows[1].codecs["none"].gradient_bytes == 0
    assert profile.head_s[1] == profile.head_kept_s[1] == found.rows[1].forward_s
    assert profile.head_s[-1] > 1.5 * sum(row.forward_s for row in found.rows)


def test_levels_and_optimizers() -> None:
    graph, inputs = graph_of(Net())
    coarse = measured(graph, inputs, codecs=("none",))
    fine = measure(graph, inputs, partial(Adam, lr=0.0), model="net", level="operation", rounds=1, codecs=("none",))

    assert len(fine.rows) == len(graph.points)
    assert len(coarse.rows) < len(fine.rows)
    assert fine.rows[1].optimizer_bytes >= 2 * fine.rows[1].parameter_bytes


def test_what_cannot_be_measured_is_refused() -> None:
    graph, inputs = graph_of(Net())
    with pytest.raises(UsageError, match="int9"):
        measured(graph, inputs, codecs=("int9",))
    graph.untrainable = "it has no gradient"
    with pytest.raises(PartitionError, match="it has no gradient"):
        measured(graph, inputs)


@pytest.mark.slow
def test_the_sum_of_the_blocks_is_a_step_and_memory_is_what_the_allocator_gave() -> None:
    from benchmarks.partition import _peak_bytes  # noqa: PLC0415  the profiler is slow to import
    from common.partition.cut_table import trace_example  # noqa: PLC0415

    graph, inputs = trace_example("resnet20", 10, "", 16)
    optimizer = make_sgd(graph.model.parameters())
    watch = Stopwatch("cpu")

    def step() -> None:
        graph.model(*inputs).square().mean().backward()

    def ratio() -> float:
        found = measure(graph, inputs, make_sgd, model="resnet20", rounds=3, codecs=("none",)).profile()
        graph.model.train()
        seconds = []
        for _ in range(5):
            stop = watch.start()
            step()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(stop())
        return found.local_s / float(np.median(seconds[2:]))

    assert any(0.8 < ratio() < 1.25 for _ in range(4))
    profile = measure(graph, inputs, make_sgd, model="resnet20", rounds=1, codecs=("none",)).profile()
    estimate = profile.head_peak_bytes[-1] - profile.parameter_bytes[-1] - profile.optimizer_bytes[-1]
    optimizer.zero_grad()
    assert estimate == pytest.approx(_peak_bytes(graph.model.train(), step), rel=0.15)


def test_energy_of_blocks_where_there_is_a_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.profiling.measure.energy_mj", partial(energy_mj, least_s=3.0, clock=Ticks()))
    graph, inputs = graph_of(Net())

    class Steady:
        name = "steady"

        def __init__(self) -> None:
            self.clock: Callable[[], float] = Ticks()

        def read_mj(self) -> float:
            return self.clock()

    found = measured(graph, inputs, codecs=("none",), meter=Steady())

    assert found.about.meter == "steady"
    assert found.rows[0].energy_mj == 0.0
    assert all(row.energy_mj > 0 for row in found.rows[1:])


def test_the_table_has_a_line_for_each_row_and_one_about_it() -> None:
    graph, inputs = graph_of(Net())
    found = measured(graph, inputs)

    lines = table_lines(found)

    assert len(lines) == len(found.rows) + 2
    assert lines[1].split()[:2] == ["0", "input"]
    assert lines[-1].startswith("net, batch size 4, on ")
    assert environment()["python"] == found.about.environment["python"]
