"""In training: does a step across a cut give the loss, the buffers and the gradients of a step of the model?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from common.partition.graph import Graph
from common.partition.points import CutPoint
from tests.zoo.crossing import Leaf, as_traced, difference, give_own, groups, kept, leaves, received, seed, wired
from tests.zoo.entry import Inputs
from tests.zoo.evaluation import named, spread

ROUNDING = 1e-5
"""A gradient that several paths add to may be summed in another order."""
_CUTS = 5
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Trained:
    """What was compared, and the first cut that is wrong."""

    cuts: int
    gradient_error: float = 0.0
    failure: str = ""
    """Loss, outputs or buffers that differ, or a step that does not run."""
    gradient_failure: str = ""
    """Gradients that differ by more than sums in another order explain, if nothing amplifies them."""


@dataclass(frozen=True)
class Step:
    """What a training step leaves."""

    values: list[Leaf]
    """Outputs, loss and buffers."""
    gradients: dict[str, Tensor | None]


def train(model: nn.Module, graph: Graph, batch: Callable[[], Inputs]) -> Trained:
    """Compare steps of the model with steps across some of the cuts where the graph says that training is right.

    Args:
        model: what was traced.
        graph: its trace.
        batch: makes the inputs of a forward pass.
    """
    model.train()
    whole = _step(model, partial(_whole, model, batch))
    again = _step(model, partial(_whole, model, batch))
    if difference(whole.values, again.values):
        return Trained(0, 0.0, "the model itself gives another loss the second time")
    points = spread([point for point in graph.points if not point.unsafe], _CUTS)
    if not points:
        return Trained(0, 0.0, f"no cut may be trained: {graph.points[0].unsafe}")
    worst = 0.0
    wrong: list[str] = []
    gradients: list[str] = []
    for point in points:
        try:
            split = _step(model, partial(_split, graph, point, batch))
        except Exception as stop:  # noqa: BLE001  one cut that fails says nothing about the others
            wrong.append(f"{named(point)}: {type(stop).__name__}: {stop}")
            continue
        if error := difference(whole.values, split.values):
            wrong.append(f"{named(point)}: loss, outputs or buffers differ by {error:.1e}")
        if (error := gradient_error(whole.gradients, split.gradients)) > ROUNDING:
            gradients.append(f"{named(point)}: gradients differ by {error:.1e}")
        worst = max(worst, error)
    return Trained(len(points), worst, _told(wrong, len(points)), _told(gradients, len(points)))


def _told(wrong: Sequence[str], count: int) -> str:
    return f"{len(wrong)} of {count} trained cuts are wrong: {wrong[0]}" if wrong else ""


def gradient_error(expected: Mapping[str, Tensor | None], found: Mapping[str, Tensor | None]) -> float:
    """The worst difference, relative to the largest element of the same parameter's gradient; 0 where all are equal.

    A gradient that is zero but for rounding, as of a bias before BatchNorm, is judged by the largest of the model
    instead, divided by a million. No gradient counts as zeros: that is what a tail sends back where it has none.
    """
    largest = max(
        (float(each.abs().max()) for each in expected.values() if each is not None and each.numel()), default=0
    )
    return max((_error(value, found[name], _SMALLEST * largest) for name, value in expected.items()), default=0.0)


def _error(expected: Tensor | None, found: Tensor | None, smallest: float) -> float:
    if expected is None or found is None:
        other = found if expected is None else expected
        return 0.0 if other is None or not other.any() else float("inf")
    if torch.equal(expected, found):
        return 0.0
    error = float((expected - found).abs().max()) / max(float(expected.abs().max()), smallest)
    return error if error >= 0 else float("inf")  # NaN


def _step(model: nn.Module, run: Callable[[], tuple[list[Leaf], Tensor]]) -> Step:
    with kept(model), torch.enable_grad():
        seed(0)
        outputs, loss = run()
        values = [each.detach().clone() if isinstance(each, Tensor) else each for each in outputs]
        return Step(
            [*values, loss.detach(), *(buffer.clone() for buffer in model.buffers())],
            {name: value.grad for name, value in model.named_parameters()},
        )


def _whole(model: nn.Module, batch: Callable[[], Inputs]) -> tuple[list[Leaf], Tensor]:
    args, kwargs = batch()
    outputs = leaves(model(*args, **kwargs), list(kwargs.values()))
    loss = _loss(outputs)
    loss.backward()  # type: ignore[no-untyped-call]
    return outputs, loss


def _split(graph: Graph, point: CutPoint, batch: Callable[[], Inputs]) -> tuple[list[Leaf], Tensor]:
    """Across a wire: copies go up, and their gradients down."""
    head, tail = (part.train() for part in graph.parts(point.index))
    args, kwargs = batch()
    objects = give_own([head, tail], kwargs)
    sent = head(*args, **kwargs)
    wanted: Sequence[bool] = graph.gradients_wanted(point.index)
    if not as_traced(graph, point.index, sent, training=True):
        wanted = [each.requires_grad for each in sent]
    arrived = wired(sent, groups(graph, point.index, sent, training=True))
    leaves_there = [each.detach().requires_grad_(want) for each, want in zip(arrived, wanted, strict=True)]
    outputs = leaves(tail(*map(received, leaves_there)), objects)
    loss = _loss(outputs)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    returned = [(each, _gradient(leaf)) for each, leaf, want in zip(sent, leaves_there, wanted, strict=True) if want]
    if returned:
        torch.autograd.backward([each for each, _ in returned], [gradient for _, gradient in returned])
    return outputs, loss


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _loss(outputs: Sequence[Leaf]) -> Tensor:
    """All of the outputs, with weights of all sizes."""
    terms = [each for each in outputs if isinstance(each, Tensor) and each.is_floating_point()]
    return torch.stack([(each.flatten() * _weights(each)).sum().double() for each in terms]).sum()


def _weights(value: Tensor) -> Tensor:
    return torch.linspace(-1, 1, value.numel(), dtype=value.dtype) if value.numel() > 1 else torch.ones(value.numel())
