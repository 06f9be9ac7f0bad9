"""What a check needs around a model: its random state, its outputs as tensors, and the wire between two parts."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.partition.graph import Graph
from common.partition.layout import pack, unpack

Leaf = Tensor | int | float | bool | str | None


def leaves(value: Any, apart: Sequence[object] = ()) -> list[Leaf]:
    """Tensors and plain values in a model's outputs, in order, those in objects such as caches included.

    Args:
        value: the outputs.
        apart: objects that do not count: the caches of a model's inputs, of which each part has its own share.
    """
    return list(_leaves(value, set(map(id, apart))))


def give_own(parts: Sequence[nn.Module], kwargs: Mapping[str, Any]) -> list[object]:
    """Give each part its own copy of the inputs that do not cross, such as caches; returns all there are of them."""
    objects = {name: value for name, value in kwargs.items() if not isinstance(value, Leaf | list | tuple | dict)}
    copies = [copy.deepcopy(objects) for _ in parts]
    for part, own in zip(parts, copies, strict=True):
        part.local = own  # type: ignore[assignment]
    return [value for own in [*copies, objects] for value in own.values()]


def _leaves(value: Any, seen: set[int]) -> Iterator[Leaf]:
    if isinstance(value, Tensor | int | float | bool | str | None):
        yield value
    elif isinstance(value, Mapping):
        for key in value:
            yield from _leaves(value[key], seen)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and id(value) not in seen:
        seen.add(id(value))
        yield from _leaves(vars(value), seen)


def difference(expected: Sequence[Leaf], found: Sequence[Leaf]) -> float:
    """0 where all are equal bit for bit; else the worst difference, relative to the largest element of its tensor."""
    if len(expected) != len(found):
        return float("inf")
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def _difference(expected: Leaf, found: Leaf) -> float:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return 0.0 if type(expected) is type(found) and expected == found else float("inf")
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if torch.equal(expected, found):
        return 0.0
    if not expected.is_floating_point():
        return float("inf")
    worst = float((expected - found).abs().max() / expected.abs().max())
    return worst if worst == worst else float("inf")  # NaN where one of them has it  # noqa: PLR0124


def across(
    parts: Sequence[nn.Module], graph: Graph, cuts: Sequence[int], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The outputs of a chain of parts in evaluation, with a wire before each part but the first.

    Args:
        parts: one or more.
        graph: what they are parts of.
        cuts: of each wire, the index of its point.
        args: of the first part.
        kwargs: of the first part.
    """
    values = parts[0](*args, **kwargs)
    for part, cut in zip(parts[1:], cuts, strict=True):
        values = part(*wired(values, groups(graph, cut, values, training=False)))
    return values


def as_traced(graph: Graph, cut: int, values: Sequence[Tensor], *, training: bool) -> bool:
    """Whether what the graph tells of the tensors that cross is true of these.

    Where a recorded model takes another way than in its recording, as a detector does that finds other boxes, all that
    may still be needed crosses. Those are never as many tensors as the graph tells.
    """
    return graph.front_end != "recorder" or len(values) == len(graph.crossing(cut, training=training))


def groups(graph: Graph, cut: int, values: Sequence[Tensor], *, training: bool) -> Any:
    """Which of the tensors that cross may have memory in common."""
    if as_traced(graph, cut, values, training=training):
        return graph.groups(cut, training=training)
    return (tuple(range(len(values))),)


def wired(values: Sequence[Tensor], sharing: Any) -> tuple[Tensor, ...]:
    """As values arrive: copies of their storages, and no history of gradients."""
    storages, views = pack(values, sharing)
    return unpack([each.detach().clone() for each in storages], views)


def received(leaf: Tensor) -> Tensor:
    """A received tensor as a value that operations may write to, which they may not to a leaf that has a gradient."""
    if not leaf.requires_grad:
        return leaf
    value: Tensor = _Received.apply(leaf)  # type: ignore[no-untyped-call]
    return value


class _Received(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, leaf: Tensor) -> Tensor:
        """The same memory, in a tensor that is no view for autograd."""
        empty = torch.empty(0, dtype=leaf.dtype)
        return empty.set_(leaf.untyped_storage(), leaf.storage_offset(), leaf.shape, leaf.stride())

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient


def seed(number: int) -> None:
    """Put all random states that a forward pass may draw from to a known place."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Puts the buffers of a model back as they were, and drops its gradients."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
        model.zero_grad(set_to_none=True)
