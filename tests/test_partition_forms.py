"""Inputs of any nesting, numbers and tuples that cross, sizes that stay free, code that only torch.export follows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition import trace
from common.partition.graph import Graph
from common.partition.layout import pack, unpack
from tests.test_partition_refusals import TwoLayers


def across(graph: Graph, cut: int, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
    """The outputs, with what crosses copied as over a wire."""
    head, tail = (part.eval() for part in graph.parts(cut))
    storages, views = pack(head(*args, **(kwargs or {})), graph.groups(cut, training=False))
    return tail(*unpack([each.clone() for each in storages], views))


class Named(NamedTuple):
    total: Tensor
    parts: list[Tensor]


class Nested(TwoLayers):
    def forward(self, pair: dict[str, Any], *, gain: float, mask: Tensor | None = None) -> Named:
        a, b = self.a(pair["first"]), self.b(pair["rest"][0])
        if mask is not None:
            a = a * mask
        return Named((a + b) * gain, [a, b])


def test_inputs_and_outputs_may_be_nested() -> None:
    model, x = Nested().eval(), torch.randn(2, 4)
    args, kwargs = ({"first": x, "rest": [x + 1]},), {"gain": 3.0, "mask": x.sign()}

    graph = trace(model, args, kwargs)

    assert graph.front_end == "torch.fx"
    assert len(graph.points[0].tensors) == 3
    expected = model(*args, **kwargs)
    for point in graph.points:
        out = across(graph, point.index, args, kwargs)
        assert type(out) is Named
        assert torch.equal(out.total, expected.total)
        assert all(map(torch.equal, out.parts, expected.parts))


@pytest.mark.parametrize(
    "kwargs", [{"gain": 2.0, "mask": torch.ones(2, 4)}, {"gain": 3.0}, {"gain": 3.0, "mask": None}]
)
def test_inputs_of_another_form_are_refused(kwargs: dict[str, Any]) -> None:
    x = torch.randn(2, 4)
    graph = trace(Nested(), ({"first": x, "rest": [x]},), {"gain": 3.0, "mask": x})

    with pytest.raises(PartitionError, match="trace it on an example of this form"):
        graph.parts(1)[0]({"first": x, "rest": [x]}, **kwargs)


class Sized(TwoLayers):
    """A number and a tuple are alive for a long time."""

    def forward(self, x: Tensor) -> Tensor:
        n, halves = x.size(0), torch.split(x, 2, dim=1)
        y: Tensor = self.b(self.a(x))
        return (y + torch.cat(halves[::-1], 1)).reshape(n * 2, -1)


def test_numbers_and_tuples_cross() -> None:
    model, x = Sized().eval(), torch.randn(2, 4)
    graph = trace(model, (x,))

    point = graph.find("a")

    assert point.tensors == (((), torch.int64), *[((2, 2), torch.float32)] * 2, ((2, 4), torch.float32))
    for each in graph.points:
        for size in (1, 2, 5):
            batch = torch.randn(size, 4)
            assert torch.equal(across(graph, each.index, (batch,)), model(batch)), each


def test_too_few_tensors_are_told() -> None:
    x = torch.randn(2, 4)
    graph = trace(Sized(), (x,))

    for cut in (graph.find("a").index, len(graph.points) - 1):
        with pytest.raises(PartitionError, match="tensors came across the cut"):
            graph.parts(cut)[1].eval()()


class Words(nn.Module):
    """Follows the number of words with Python code, as transformers do."""

    def __init__(self, places: int = 0) -> None:
        super().__init__()
        self.embed, self.norm, self.out = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.place = nn.Embedding(places, 8) if places else None

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if ids.shape[1] > 1:
            x = x + torch.arange(ids.shape[1])[:, None] / 10
        if self.place is not None:
            x = x + self.place.weight
        drop = nn.functional.dropout(self.norm(x), 0.5, self.training)
        logits: Tensor = self.out(drop).mean(1)
        return logits


@pytest.mark.slow
def test_batches_and_words_stay_free_in_an_exported_graph() -> None:
    model = Words().eval()
    graph = trace(model, (torch.randint(0, 11, (2, 7)),))

    assert graph.front_end == "torch.export"
    assert "if ids.shape[1] > 1:" in graph.report[0]
    for point in graph.points:
        for shape in ((1, 7), (2, 3), (5, 9)):
            ids = torch.randint(0, 11, shape)
            assert torch.equal(across(graph, point.index, (ids,)), model(ids)), (point, shape)


@pytest.mark.slow
def test_a_size_that_the_graph_has_taken_over_is_the_only_one() -> None:
    model = Words(places=7).eval()
    graph = trace(model, (torch.randint(0, 11, (2, 7)),))

    ids = torch.randint(0, 11, (3, 7))
    assert torch.equal(across(graph, 2, (ids,)), model(ids))
    with pytest.raises(PartitionError, match="an input of 2x6 came; the graph holds for anyx7"):
        graph.parts(2)[0](torch.randint(0, 11, (2, 6)))


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_both_modes_of_an_exported_model_have_one_set_of_weights(training: bool) -> None:
    model = Words().train(training)
    ids = torch.randint(0, 11, (2, 7))
    graph = trace(model, (ids,))

    parts = [part.train(training) for part in graph.parts("norm")]

    assert {name for part in parts for name in part.state_dict()} == set(model.state_dict())
    torch.manual_seed(2)
    expected = model(ids)
    torch.manual_seed(2)
    assert torch.equal(parts[1](*parts[0](ids)), expected)


class Shaped(TwoLayers):
    """Remembers the size of its last input, as detectors do with their anchors."""

    last: tuple[int, ...] | None = None
    table: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.shape != self.last:
            self.last, self.table = x.shape, torch.arange(x.shape[1]).float()
        return self.b(x * self.table) if x.shape[1] > 1 else x


@pytest.mark.slow
@pytest.mark.parametrize("ran", [False, True])
def test_what_a_model_remembers_of_its_inputs_is_not_frozen(ran: bool) -> None:
    model, x = Shaped().eval(), torch.randn(2, 4)
    if ran:
        model(x)

    graph = trace(model, (x,))

    for size in (1, 2, 6):
        batch = torch.randn(size, 4)
        assert torch.equal(across(graph, 1, (batch,)), model(batch))


class Unrunnable(TwoLayers):
    """Trains only on pairs."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise ValueError("give me labels")
        return self.b(self.a(x))  # type: ignore[no-any-return]


def test_a_model_that_does_not_train_on_the_example_serves_inference() -> None:
    model, x = Unrunnable().eval(), torch.randn(2, 4)

    graph = trace(model, (x,))

    assert graph.untrainable == "the model fails on the example inputs: give me labels"
    assert {point.unsafe for point in graph.points} == {graph.untrainable}
    assert torch.equal(across(graph, 1, (x,)), model(x))
    with pytest.raises(PartitionError, match="give me labels; no cut of it can be trained"):
        graph.require_trainable(1)
    with pytest.raises(PartitionError, match="serves evaluation only"):
        graph.parts(1)[0].train()(x)
