"""One training step of a model block by block: the seconds of each, and what crosses between them.

Every block takes what the block before it returned, detached, as a head or a tail would over a link: first all
forward passes without a graph, then from the last block to the first replay, backward pass and update. So each block
finds caches as cold as in a run, and the memory of one block's graph is all that is held at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from common.partition.inputs import fresh
from common.profiling.stopwatch import Stopwatch

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
Timed = dict[str, float]
"""Seconds by the columns of `BlockRow`."""


@dataclass
class Crossing:
    """What crosses at the cut before a block."""

    values: tuple[Any, ...]
    """Activations; of the first block the model's inputs."""
    gradients: tuple[Tensor, ...] = ()
    """Of those that a gradient is wanted of."""


@dataclass
class Block:
    """A part of the model between two cuts."""

    part: nn.Module
    wanted: Sequence[bool]
    """Of which tensors that come in a gradient goes back; none of the model's inputs."""
    wanted_behind: Sequence[bool] | None
    """Of which tensors that go out a gradient comes back; None behind the last block, whose outputs are a model's."""
    optimizer: Optimizer | None = field(init=False, default=None)

    def equip(self, make_optimizer: MakeOptimizer) -> None:
        """Give the block an optimizer, where anything in it is trained."""
        trained = [each for each in self.part.parameters() if each.requires_grad]
        self.optimizer = make_optimizer(trained) if trained else None

    def inputs(self, crossing: Crossing) -> tuple[tuple[Any, ...], list[Tensor]]:
        """What to call the part with, once: it may write to it. And the leaves that collect gradients."""
        copied, _ = fresh(crossing.values, {})
        if not any(self.wanted):
            return copied, []
        leaves = [each.requires_grad_() for each, want in zip(copied, self.wanted, strict=True) if want]
        # In-place operations may not write to a leaf.
        own = (each.view_as(each).clone() if want else each for each, want in zip(copied, self.wanted, strict=True))
        return tuple(own), leaves

    def trained(self, outputs: Any) -> list[Tensor]:
        """Those of the outputs that a gradient comes back of."""
        if self.wanted_behind is not None:
            return list(compress(outputs, self.wanted_behind))
        return [each for each in tree_leaves(outputs) if isinstance(each, Tensor) and each.requires_grad]


def step(blocks: Sequence[Block], inputs: Sequence[Any], watch: Stopwatch) -> tuple[list[Timed], list[Crossing]]:
    """A step of all blocks: their seconds, and what crosses before each of them and behind the last."""
    crossings = [Crossing(tuple(inputs))]
    seconds: list[Timed] = []
    with torch.no_grad():
        for block in blocks:
            values, _ = block.inputs(crossings[-1])
            stop = watch.start()
            outputs = block.part(*values)
            seconds.append({"forward_s": stop()})
            crossings.append(Crossing(outputs if isinstance(outputs, tuple) else (outputs,)))
    for i in reversed(range(len(blocks))):
        seconds[i] |= backward(blocks[i], crossings[i], crossings[i + 1], watch)
    return seconds, crossings


def backward(block: Block, before: Crossing, behind: Crossing, watch: Stopwatch) -> Timed:
    """Replay, backward pass and update of one block; the gradients of its inputs go to ``before``."""
    values, leaves = block.inputs(before)
    stop = watch.start()
    outputs = block.trained(block.part(*values))
    seconds = {"replay_s": stop(), "backward_s": 0.0, "optimizer_s": 0.0}
    if block.wanted_behind is None:
        behind.gradients = tuple(torch.randn_like(each) / max(each.numel(), 1) for each in outputs)
    if outputs:
        stop = watch.start()
        torch.autograd.backward(outputs, behind.gradients)
        seconds["backward_s"] = stop()
    if block.optimizer is not None:
        stop = watch.start()
        block.optimizer.step()
        block.optimizer.zero_grad()
        seconds["optimizer_s"] = stop()
    before.gradients = tuple(torch.zeros_like(each) if each.grad is None else each.grad for each in leaves)
    return seconds
