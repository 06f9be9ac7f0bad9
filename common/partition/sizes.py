"""Which sizes of a model's inputs a graph leaves free: found by running it at others."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from common.errors import PartitionError
from common.partition.inputs import by_name, free_dimensions, fresh, tensor_leaves
from common.partition.verify import FAILURES, Outcome, difference, outcome

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

BATCH, TOKEN = 0, 1


def fixed_sizes(
    model: nn.Module, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[int | None, ...]]:
    """The sizes of each tensor of the inputs that ``run`` (the model's parts) holds for; None where they are free.

    Raises:
        PartitionError: the model takes batches of other sizes, and the parts do not.
    """
    asked = free_dimensions(args, kwargs)
    free = set[int]()
    for dimension in (BATCH, TOKEN):
        expected = {}
        for change in (1, -1):
            inputs = _resized(args, kwargs, asked, dimension, change)
            if (result := _evaluated(model, model, inputs)) is not None:
                expected[change] = result, _evaluated(model, run, inputs)
        if expected and all(found and not difference(right, found) for right, found in expected.values()):
            free.add(dimension)
        elif expected and dimension == BATCH:
            raise PartitionError("the batch size of the example would be the only one that it computes")
    return [
        tuple(None if i in mine and i in free else n for i, n in enumerate(leaf.shape))
        for leaf, mine in zip(tensor_leaves(args, kwargs), asked, strict=True)
    ]


def run_at_another_size(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Run the model on another number of samples, if it takes that.

    What it remembers of its last inputs then differs from what comes next, as it may at any time; a front end that
    finds them equal takes their size for the only one.
    """
    with suppress(*FAILURES), torch.no_grad():
        args, kwargs = _resized(*fresh(args, kwargs), free_dimensions(args, kwargs), BATCH, 1)
        model(*args, **kwargs)


def _resized(
    args: Sequence[Any], kwargs: Mapping[str, Any], asked: Sequence[tuple[int, ...]], dimension: int, change: int
) -> Inputs:
    """The inputs with one sample (or token) more or less."""
    leaves, spec = tree_flatten((tuple(args), by_name(kwargs)))
    dimensions = iter(asked)
    changed = [
        _longer(each, dimension, change) if isinstance(each, Tensor) and dimension in next(dimensions) else each
        for each in leaves
    ]
    inputs: Inputs = tree_unflatten(changed, spec)
    return inputs


def _longer(leaf: Tensor, dimension: int, change: int) -> Tensor:
    if change < 0:
        return leaf.narrow(dimension, 0, max(leaf.shape[dimension] + change, 1))
    return torch.cat([leaf, leaf.narrow(dimension, 0, change)], dimension)


def _evaluated(model: nn.Module, run: Callable[..., Any], inputs: Inputs) -> Outcome | None:
    try:
        return outcome(model, run, *inputs, training=False)
    except FAILURES:
        return None  # not at this size
