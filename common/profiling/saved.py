"""How many bytes a block's graph keeps for its backward pass."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

RunBlock = Callable[[], tuple[Sequence[Any], Any]]
"""Computes a block forward with its graph: what went in, and what came out."""


class _Kept(NamedTuple):
    """Bytes that a block's graph keeps."""

    inputs: int
    inner: int
    outputs: int


def saved_bytes(runs: Sequence[RunBlock], state: Iterable[Tensor]) -> list[int]:
    """For each block of a chain, what its graph adds to that of the blocks before it.

    A tensor between two blocks may be kept by both, and counts once. Parameters and buffers are there anyway.
    """
    own = {each.untyped_storage().data_ptr() for each in state}
    kept = [_kept(run, own) for run in runs]
    before = [_Kept(0, 0, 0), *kept]
    return [
        max(each.outputs, mine.inputs) - each.outputs + mine.inner + mine.outputs
        for each, mine in zip(before, kept, strict=False)
    ]


def _kept(run: RunBlock, state: set[int]) -> _Kept:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        inputs, outputs = run()
    bytes_of = {place: each.untyped_storage().nbytes() for place, each in kept.items() if place not in state}
    came, left = _places(inputs), _places(outputs)
    return _Kept(
        sum(size for place, size in bytes_of.items() if place in came - left),
        sum(size for place, size in bytes_of.items() if place not in came | left),
        sum(size for place, size in bytes_of.items() if place in left),
    )


def _places(values: Any) -> set[int]:
    return {each.untyped_storage().data_ptr() for each in tree_leaves(values) if isinstance(each, Tensor)}
