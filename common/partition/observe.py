"""Run a traced model once, and note of each node what decides whether and how its value can cross a cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Seen:
    """What a node's run showed."""

    tensor: tuple[tuple[int, ...], torch.dtype] | None
    """Shape and dtype of the value; None where it is no tensor."""
    differentiable: bool
    storage: int
    """Equal for two nodes whose values share memory."""
    mutated: frozenset[int]
    """Storages that the node wrote to."""


def observe(module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Run ``module`` and leave a `Seen` in ``node.meta["seen"]`` of each node."""
    # Clones of leaves: in-place operations may write to them, and all that depends on them has a gradient.
    leaves = [each.detach().requires_grad_(each.is_floating_point()) for each in inputs]
    with torch.enable_grad():
        _Observer(module).run(*(each.clone() for each in leaves))


class _Observer(fx.Interpreter):
    """Keeps every value until the end, so that equal storages are the same storage."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        args = [self.env[each] for each in n.all_input_nodes]
        before = [each for each in tree_leaves(args) if isinstance(each, Tensor)]
        versions = [each._version for each in before]
        value = super().run_node(n)
        written = {_storage(each) for each, v in zip(before, versions, strict=True) if each._version != v}
        if isinstance(value, Tensor):
            tensor = (tuple(value.shape), value.dtype)
            n.meta["seen"] = Seen(tensor, value.requires_grad, _storage(value), frozenset(written))
        else:
            n.meta["seen"] = Seen(None, False, 0, frozenset(written))
        return value


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
