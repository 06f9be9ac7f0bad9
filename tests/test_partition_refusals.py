"""A model or a cut that cannot be is told by name, with the reason."""

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
    with pytest.raises(PartitionError, match="Branching cannot be traced") as caught:
        trace(Branching(), (X,))

    assert "test_partition_refusals.py" in str(caught.value)
    assert "if x.sum() > 0:" in str(caught.value)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("model", "mode"),
    [(FunctionalDropout(), "evaluation"), (FunctionalDropout().eval(), "training"), (HiddenNoGrad(), "training")],
)
def test_a_trace_that_computes_something_else_is_found(model: nn.Module, mode: str) -> None:
    with pytest.raises(PartitionError, match=f"its trace differs from the model in {mode} mode"):
        trace(model, (X,))


def test_random_numbers_that_the_trace_has_frozen_are_found() -> None:
    with pytest.raises(PartitionError, match="its trace differs"):
        trace(FreshNoise(), (X,))


class Tied(TwoLayers):
    """One weight under two names, as in a language model's first and last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.relu(self.a(x)))  # type: ignore[no-any-return]


def test_tied_weights_across_a_cut_are_refused_by_name() -> None:
    graph = trace(Tied(), (X,))

    for cut in ("a", "relu"):
        with pytest.raises(PartitionError, match=re.escape(f"cut {cut!r}: both sides use a.weight, b.weight")):
            graph.parts(cut)
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
        trace(NormTwice(), (X,)).parts("a")
