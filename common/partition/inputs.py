"""The inputs of a model: any nesting of tensors and plain values, by position and by name."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map

from common.errors import PartitionError

_PLAIN = (Tensor, bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


def by_name(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """In the one order in which inputs by name are counted."""
    return dict(sorted(kwargs.items()))


def tensor_leaves(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """All tensors of the inputs, in the order in which they cross cut 0."""
    return [each for each in tree_leaves((tuple(args), by_name(kwargs))) if isinstance(each, Tensor)]


def free_dimensions(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Of each tensor of the inputs, the dimensions that are asked to stay free: batch, and token."""
    leaves = tensor_leaves(args, kwargs)
    batch = next((leaf.shape[0] for leaf in leaves if leaf.dim()), 0)
    return [_free(leaf, batch) for leaf in leaves]


def _free(leaf: Tensor, batch: int) -> tuple[int, ...]:
    if not leaf.dim() or leaf.shape[0] != batch:
        return ()
    tokens = leaf.dim() == 2 and not leaf.is_floating_point()
    return (0, 1) if tokens else (0,)


def fresh(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs for one more run, which may write to them."""
    copied: tuple[tuple[Any, ...], dict[str, Any]] = tree_map(_fresh, (tuple(args), by_name(kwargs)))
    return copied


def require_plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse inputs with anything in them but tensors and plain values: a graph would take its content for constant.

    Raises:
        PartitionError: it names what it is.
    """
    for leaf in tree_leaves((tuple(args), by_name(kwargs))):
        if not isinstance(leaf, _PLAIN):
            raise PartitionError(f"the inputs hold a {type(leaf).__name__}, whose content a graph would freeze")


class InputForm:
    """The nesting of a model's inputs and their plain values, which a graph has taken over from the example."""

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._spec, self._plain = _form(args, kwargs)
        self._sizes: Sequence[Sequence[int | None]] | None = None
        self._bare = len(args) if not kwargs and _all_tensors(args) else -1
        """Number of inputs where all are tensors by position: their form needs no comparing."""

    def fix(self, sizes: Sequence[Sequence[int | None]]) -> None:
        """For each tensor the sizes that the graph has taken over too; None where a size is free."""
        self._sizes = sizes

    def leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of inputs of this form.

        Raises:
            PartitionError: other inputs; a graph would take the example's plain values and sizes for theirs.
        """
        if len(args) == self._bare and not kwargs and _all_tensors(args):
            leaves = list(args)
        else:
            self._compare(args, kwargs)
            leaves = tensor_leaves(args, kwargs)
        for leaf, sizes in zip(leaves, self._sizes or (), strict=self._sizes is not None):
            if len(sizes) != leaf.dim() or any(n not in (None, m) for n, m in zip(sizes, leaf.shape, strict=True)):
                wanted = "x".join("any" if n is None else str(n) for n in sizes)
                raise PartitionError(
                    f"an input of {'x'.join(map(str, leaf.shape))} came; the graph holds for {wanted}: "
                    "trace the model on an example of this size"
                )
        return leaves

    def _compare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        spec, plain = _form(args, kwargs)
        if spec != self._spec or plain != self._plain:
            raise PartitionError(
                f"inputs of the form {spec} {plain} came; the model was traced on {self._spec} {self._plain}: "
                "trace it on an example of this form"
            )


def _all_tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(each, Tensor) for each in values)


def _form(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[TreeSpec, tuple[Any, ...]]:
    leaves, spec = tree_flatten((tuple(args), by_name(kwargs)))
    return spec, tuple(Tensor if isinstance(each, Tensor) else each for each in leaves)


def _fresh(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
