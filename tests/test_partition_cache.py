"""A graph serves other models built alike, and no others; weights stay each model's own."""

import gc
import sys
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from common.models import build_model
from common.partition import trace
from common.partition.cache import find, key_of
from tests.test_partition import Mixed, randomise

X = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


def test_a_second_model_built_alike_is_cut_without_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = trace(Mixed(), (X,))
    other = randomise(Mixed()).eval()
    monkeypatch.setattr(sys.modules["common.partition.trace"], "_traced", None)  # any call of it would fail

    graph = trace(other, (X,))

    assert graph.points == first.points
    assert graph.digest == first.digest
    for cut in range(len(graph.points)):
        head, tail = (part.eval() for part in graph.parts(cut))
        assert torch.equal(tail(*head(X)), other(X))
    assert {id(each) for part in graph.parts(3) for each in part.parameters()} == set(map(id, other.parameters()))


def test_the_cache_keeps_no_weights() -> None:
    model = build_model("resnet20")
    weights = [weakref.ref(each) for each in model.parameters()]
    graph = trace(model, (X,))

    del model, graph
    gc.collect()

    assert [each for each in weights if each() is not None] == []


class Scaled(nn.Module):
    """All that makes it differ from another of its class is a plain attribute."""

    def __init__(self, scale: object) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale() if callable(self.scale) else self.scale
        out: Tensor = self.layer(x) * scale
        return out


@pytest.mark.parametrize(
    "scales", [(1.0, 2.0), (1, 1.0), (1, True), (lambda: 2.0, lambda: 3.0), (torch.ones(4), torch.zeros(4))]
)
def test_other_attributes_are_another_key(scales: tuple[object, object]) -> None:
    x = torch.ones(2, 4)
    first, second = (key_of(Scaled(scale), (x,), {}) for scale in scales)

    assert first is not None
    assert second is not None
    assert first != second
    assert first == key_of(Scaled(scales[0]), (x,), {})


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.requires_grad_(False),
        lambda model: model.double(),
        lambda model: setattr(model.layer, "bias", None),
        lambda model: setattr(model, "layer", nn.Sequential(model.layer)),
        lambda model: model.layer.register_buffer("more", torch.ones(1)),
    ],
)
def test_another_structure_is_another_key(change: Callable[[nn.Module], object]) -> None:
    x = torch.ones(2, 4)
    changed = Scaled(1.0)

    change(changed)

    assert key_of(changed, (x,), {}) != key_of(Scaled(1.0), (x,), {})


def test_other_inputs_are_another_key() -> None:
    model, x = Scaled(1.0), torch.ones(2, 4)
    keys = [
        key_of(model, args, kwargs)
        for args, kwargs in (
            ((x,), {}),
            ((x[:1],), {}),
            ((x.double(),), {}),
            ((x, 1), {}),
            ((x, 2), {}),
            ((), {"x": x}),
        )
    ]

    assert len(set(keys)) == len(keys)


def closing_over() -> Callable[[], float]:
    value = [2.0]
    return lambda: value[0]


@pytest.mark.parametrize("scale", [torch.ones(4097), closing_over(), object()])
def test_what_cannot_be_compared_is_not_kept(scale: object) -> None:
    assert key_of(Scaled(scale), (torch.ones(2, 4),), {}) is None
    assert find(None, Scaled(scale)) is None


def test_a_hook_is_not_kept() -> None:
    model = Scaled(1.0)
    model.layer.register_forward_hook(lambda _module, _args, out: out * closing_over()())

    assert key_of(model, (torch.ones(2, 4),), {}) != key_of(Scaled(1.0), (torch.ones(2, 4),), {})
