"""Tensors inside what torch functions take and give: lists, tuples, dicts and slices of them."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors, in order, one that is there twice twice."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, slice):
        yield from tensors_in((value.start, value.stop, value.step))


def reachable_tensors(value: Any, beyond: set[int]) -> Iterator[Tensor]:
    """Tensors in any object, each once: through containers and attributes, but not into those whose id is given."""
    seen: set[int] = set()
    for _, tensor in tensor_slots(value, beyond):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def tensor_slots(value: Any, beyond: set[int]) -> Iterator[tuple[tuple[int, Any], Tensor]]:
    """The same, with where each tensor is: id of the object that it hangs on, and under what name or number."""
    seen = set(beyond)
    waiting: list[tuple[tuple[int, Any], Any]] = [((0, None), value)]
    while waiting:
        slot, each = waiting.pop()
        if isinstance(each, Tensor):
            yield slot, each
        elif id(each) not in seen and not isinstance(each, type | nn.Module):
            seen.add(id(each))
            waiting.extend(((id(each), name), below) for name, below in reversed(_below(each)))


def _below(value: Any) -> list[tuple[Any, Any]]:
    below: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        below.extend(value.items())
    elif isinstance(value, tuple | list | set | frozenset):
        below.extend(enumerate(value))
    below.extend(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        below.extend((name, getattr(value, name)) for name in names if hasattr(value, name))
    return below
