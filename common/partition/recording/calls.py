"""Which torch calls are steps, and what they are called on every machine."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import xxhash
from torch.overrides import resolve_name

# Answers that a stand-in of the right shape, dtype and device gives as well: never steps.
_PROPERTIES = [
    "shape",
    "dtype",
    "device",
    "ndim",
    "layout",
    "requires_grad",
    "is_leaf",
    "is_cuda",
    "is_cpu",
    "is_meta",
    "is_sparse",
    "is_sparse_csr",
    "is_quantized",
    "is_mkldnn",
    "is_mps",
    "is_mtia",
    "is_xpu",
    "is_xla",
    "is_vulkan",
    "is_ipu",
    "is_hpu",
    "is_maia",
    "is_nested",
    "names",
    "name",
    "itemsize",
    "nbytes",
    "retains_grad",
    "grad_fn",
    "output_nr",
    "_version",
    "_backward_hooks",
    "_post_accumulate_grad_hooks",
    "_is_param",
]
_METHODS = [
    "size",
    "dim",
    "ndimension",
    "numel",
    "nelement",
    "element_size",
    "is_floating_point",
    "is_complex",
    "is_signed",
    "is_conj",
    "is_neg",
    "is_inference",
    "is_same_size",
    "has_names",
    "get_device",
    "is_shared",
    "__len__",
    "__hash__",
    "__repr__",
]
_FUNCTIONS = [
    "numel",
    "is_floating_point",
    "is_complex",
    "is_signed",
    "is_conj",
    "is_neg",
    "is_inference",
    "is_same_size",
    "get_device",
    "is_tensor",
    "result_type",
    "can_cast",
    "promote_types",
    "device",
]
_QUERIES = frozenset(
    [
        *(f"torch.Tensor.{name}.__get__" for name in _PROPERTIES),
        *(f"torch.Tensor.{name}" for name in _METHODS),
        *(f"torch.{name}" for name in _FUNCTIONS),
    ]
)
# Global switches: left out, they would not be put back when the run is stopped inside of them.
_SWITCHES = ("set_", "_set_", "_enter_", "_exit_", "_push", "_pop", "manual_seed")
_RESHAPING = frozenset(
    [
        "squeeze_",
        "unsqueeze_",
        "t_",
        "transpose_",
        "swapaxes_",
        "swapdims_",
        "resize_",
        "resize_as_",
        "as_strided_",
        "set_",
        "moveaxis_",
    ]
)


@dataclass(frozen=True, eq=False)
class Call:
    """A function of torch, as it is known here and on the other side."""

    name: str
    short: str
    code: int
    """Stands for the name in a journey."""
    query: bool
    """Whether it is executed wherever it is met, and never counted."""

    @cached_property
    def in_place(self) -> bool:
        """Whether it writes to its first argument."""
        return self.short == "__setitem__" or (self.short.endswith("_") and not self.short.endswith("__"))

    @cached_property
    def reshapes(self) -> bool:
        """Whether it gives its first argument another shape."""
        return self.short in _RESHAPING

    @cached_property
    def replaces(self) -> bool:
        """Whether it puts another tensor behind its first argument."""
        return self.short in ("data_set", "grad_set") or self.name == "torch.Tensor.set_"


CALLS: dict[Any, Call] = {}
"""By function; `call_of` fills it."""


def call_of(function: Callable[..., Any]) -> Call:
    """The call of a function; the same for equal functions."""
    call = CALLS.get(function)
    if call is None:
        call = CALLS[function] = _described(function)
    return call


def _described(function: Callable[..., Any]) -> Call:
    name = resolve_name(function) or _qualified(function)
    names = name.split(".")
    if names[-1] in ("__get__", "__set__"):
        short = names[-2] if names[-1] == "__get__" else f"{names[-2]}_set"
    else:
        short = names[-1]
        if isinstance(function, torch._ops.OpOverload):
            short = names[-2]
    switch = "Tensor" not in names and short.startswith(_SWITCHES) and not isinstance(function, torch._ops.OpOverload)
    return Call(name, short, xxhash.xxh32_intdigest(name.encode()), name in _QUERIES or switch)


def _qualified(function: Any) -> str:
    module = getattr(function, "__module__", None) or "torch"
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"


_SEQUENCES = (tuple, list, torch.Size)
_MASK = (1 << 61) - 1


def folded(digest: int, values: Iterable[Any]) -> int:
    """A running hash over the whole numbers among arguments: sizes, positions, dimensions.

    Fractions are left out; they may differ in their last bit from machine to machine.
    """
    for each in values:
        kind = type(each)
        if kind is int or kind is bool:
            digest = (digest * 1000003 + each) & _MASK
        elif kind in _SEQUENCES:
            digest = folded(digest, each)
    return digest
