"""A model or a cut that cannot be is told by name, with the reason."""

import os
import re

import pytest
import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.models import build_model
from common.partition import trace
from common.partition.graph import Graph

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class TwoLayers(nn.Module):
    """Base of the models below: two linear layers, put together in a way of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


@pytest.fixture(scope="module")
def resnet20() -> Graph:
    return trace(build_model("resnet20"), (torch.randn(2, 3, 8, 8),))


@pytest.mark.parametrize(
    ("cut", "hint"),
    [("features.3.relo", "features.3.relu"), ("classifer", "classifier"), ("Pooling", "pooling"), ("", "nearest are")],
)
def test_an_unknown_name_is_told_with_the_nearest(resnet20: Graph, cut: str, hint: str) -> None:
    with pytest.raises(PartitionError, match=re.escape(f"no cut {cut!r}")) as caught:
        resnet20.parts(cut)

    assert hint in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("cut", [-1, 1000])
def test_an_unknown_index_is_told_with_the_last(resnet20: Graph, cut: int) -> None:
    with pytest.raises(PartitionError, match=f"no cut {cut}; cuts go from 0 to {len(resnet20.points) - 1}"):
        resnet20.find(cut)


@pytest.mark.parametrize("count", [0, -1, 13])
def test_more_slices_than_blocks(resnet20: Graph, count: int) -> None:
    with pytest.raises(PartitionError, match=f"12 blocks; it cannot be made into {count} slices"):
        resnet20.slices(count)


class Branching(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = self.a(x)
        return self.b(x)  # type: ignore[no-any-return]


def test_control_flow_is_told_with_its_line() -> None:
    graph = trace(Branching(), (X,))

    assert graph.front_end == "recorder"
    for refusal, front_end in zip(graph.report, ("torch.fx", "torch.export"), strict=True):
        assert refusal.startswith(f"{front_end}: ")
        assert "test_partition_refusals.py" in refusal
        assert "if x.sum() > 0:" in refusal
        assert "\n" not in refusal


class Whimsical(TwoLayers):
    """Draws numbers that no seed of torch's reaches."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * os.urandom(1)[0])  # type: ignore[no-any-return]


def test_a_model_that_cannot_be_traced_is_told_with_all_reasons() -> None:
    with pytest.raises(PartitionError, match="Whimsical cannot be traced") as caught:
        trace(Whimsical(), (X,))

    for front_end in ("torch.fx", "torch.export"):
        assert f"{front_end}: what it computes in evaluation is not what the model does" in str(caught.value)
    assert "recorder: the calls before the cut were given other" in str(caught.value)


class Failing(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[:, :3])  # type: ignore[no-any-return]


def test_a_model_that_fails_on_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PartitionError, match="Failing fails on the example inputs: mat1 and mat2"):
        trace(Failing(), (X,))

    assert capsys.readouterr().err == ""


class FunctionalDropout(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.a(x), 0.5, self.training)


class HiddenNoGrad(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.a(x)
        return self.b(x)  # type: ignore[no-any-return]


class FreshNoise(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + torch.rand(4)  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [HiddenNoGrad(), FreshNoise()])
def test_a_trace_that_computes_something_else_is_found(model: nn.Module) -> None:
    graph = trace(model, (X,))

    assert graph.front_end != "torch.fx"
    assert re.search("torch.fx: .*what it computes in .* is not what the model does", graph.report[0])


@pytest.mark.parametrize("training", [False, True])
def test_a_model_with_another_way_for_training_is_traced_in_both(training: bool) -> None:
    model = FunctionalDropout().train(training)
    graph = trace(model, (X,))

    head, tail = (part.train(training) for part in graph.parts("a"))

    assert graph.front_end == "torch.fx"
    torch.manual_seed(3)
    expected = model(X)
    torch.manual_seed(3)
    assert torch.equal(tail(*head(X)), expected)


class Tied(TwoLayers):
    """One weight under two names, as in a language model's first and last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.relu(self.a(x)))  # type: ignore[no-any-return]


def test_tied_weights_across_a_cut_serve_inference_and_are_refused_for_training_by_name() -> None:
    model = Tied()
    graph = trace(model, (X,))

    for cut in ("a", "relu"):
        reason = re.escape("both sides use a.weight, b.weight; the nearest cuts for training are 'input' (0), 'b' (3)")
        with pytest.raises(PartitionError, match=rf"cut {cut!r} \(\d\): {reason}"):
            graph.require_trainable(cut)
        head, tail = (part.eval() for part in graph.parts(cut))
        assert torch.equal(tail(*head(X)), model(X))
    graph.require_trainable("b")
    assert torch.equal(graph.parts("b")[0](X)[0], graph.parts("input")[1](X))


class NormTwice(TwoLayers):
    """A norm without parameters, whose statistics both uses move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(self.norm(x)))  # type: ignore[no-any-return]


def test_shared_statistics_across_a_cut_are_refused_by_name() -> None:
    with pytest.raises(PartitionError, match=r"both sides use .*norm\.running_mean"):
        trace(NormTwice(), (X,)).require_trainable("a")


class SharedTable(TwoLayers):
    """A table that both layers read and nobody writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) * self.table) + self.table  # type: ignore[no-any-return]


def test_a_table_that_never_changes_is_in_both_parts() -> None:
    graph = trace(SharedTable(), (X,))

    graph.require_trainable("a")

    assert all("table" in part.state_dict() for part in graph.parts("b"))
