"""A value of the model's Python code as the tensors that cross a cut for it, and back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

_NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
_NESTING = (tuple, list, dict, slice, torch.Size)


@dataclass(frozen=True)
class TensorLeaf:
    """A tensor, which crosses as it is."""


@dataclass(frozen=True)
class NumberLeaf:
    """A number, which crosses as a 0-d tensor."""

    kind: type


@dataclass(frozen=True)
class DeviceLeaf:
    """A device: on either side, the one where that side's tensors are."""


@dataclass(frozen=True)
class Literal:
    """What is the same on both sides."""

    value: Any


@dataclass(frozen=True)
class Nested:
    """A sequence, slice or dictionary of others."""

    kind: type
    parts: "tuple[Template, ...]"
    keys: tuple[Any, ...] = ()


Template: TypeAlias = TensorLeaf | NumberLeaf | DeviceLeaf | Literal | Nested

PLAIN = TensorLeaf()


def template_of(value: Any) -> Template | None:
    """How ``value`` is made of tensors and numbers; None where it is made of something else too."""
    match value:
        case Tensor():
            template: Template | None = PLAIN
        case bool() | int() | float():
            template = NumberLeaf(type(value)) if type(value) in _NUMBERS else None
        case torch.device():
            template = DeviceLeaf()
        case None | str() | torch.dtype() | torch.layout() | torch.memory_format():
            template = Literal(value)
        case slice() | tuple() | list() | dict() if type(value) in _NESTING:
            keys = tuple(value) if isinstance(value, dict) else ()
            template = _nested(type(value), _inner(type(value), value), keys)
        case _:
            template = None
    return template


def leaves_of(value: Any, template: Template) -> Iterator[Tensor]:
    """The tensors that cross for a value, in order.

    Raises:
        TypeError: the value is made otherwise than the template says.
    """
    match template:
        case TensorLeaf():
            if not isinstance(value, Tensor):
                raise TypeError(f"{type(value).__name__} where a tensor was")
            yield value
        case NumberLeaf(kind):
            yield torch.tensor(kind(value), dtype=_NUMBERS[kind])
        case Nested(kind, parts, keys):
            inner = _inner(kind, value)
            if len(inner) != len(parts) or (kind is dict and tuple(value) != keys):
                raise TypeError(f"{kind.__name__} of {len(inner)} where one of {len(parts)} was")
            for each, part in zip(inner, parts, strict=True):
                yield from leaves_of(each, part)
        case _:
            return


def restore(template: Template, leaves: Iterator[Tensor], device: torch.device) -> Any:
    """The value whose tensors come next in ``leaves``."""
    match template:
        case TensorLeaf():
            return next(leaves)
        case NumberLeaf(kind):
            return kind(next(leaves).item())
        case DeviceLeaf():
            return device
        case Literal(value):
            return value
        case Nested(kind, parts, keys):
            inner = [restore(part, leaves, device) for part in parts]
            if kind is dict:
                return dict(zip(keys, inner, strict=True))
            return slice(*inner) if kind is slice else kind(inner)


def _nested(kind: type, values: Sequence[Any], keys: tuple[Any, ...] = ()) -> Nested | None:
    parts = tuple(template_of(each) for each in values)
    known = tuple(part for part in parts if part is not None)
    return Nested(kind, known, keys) if len(known) == len(parts) else None


def _inner(kind: type, value: Any) -> Sequence[Any]:
    if kind is slice:
        return value.start, value.stop, value.step
    return tuple(value.values()) if kind is dict else tuple(value)
