"""The arguments of a model: which are tensors, which are plain values, and which each part has of its own."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor

from common.errors import PartitionError
from common.partition.inputs import by_name
from common.partition.recording.nested import tensors_in
from common.partition.recording.notes import Notes
from common.partition.recording.outcomes import Literal, Local, Many, Outcome, Same

_PLAIN = (bool, int, float, str, type(None))


def noted(args: Sequence[Any], kwargs: dict[str, Any], notes: Notes) -> Many:
    """Describe arguments and note their tensors, in the order of `tensors_in`."""
    known: dict[int, int] = {}

    def describe(value: Any, path: str) -> Outcome:
        if isinstance(value, Tensor):
            if id(value) in known:
                return Same(known[id(value)])
            known[id(value)] = len(notes.tensors)
            return notes.fresh(value)
        if type(value) in _PLAIN:
            return Literal(value)
        if _is_container(value):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            described = tuple(describe(each, f"{path}.{key}" if path else str(key)) for key, each in items)
            return Many(type(value).__name__, described, tuple(value) if isinstance(value, dict) else ())
        if isinstance(value, tuple | list | dict) and next(tensors_in(value), None) is not None:
            raise PartitionError(
                f"the input {path} is a {type(value).__name__} with tensors in it; lists, tuples and dicts with names "
                "as keys can cross a cut, so give the tensors in one of these"
            )
        return Local(path)

    return Many("tuple", (describe(tuple(args), ""), describe(dict(kwargs), "")))


def locals_of(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that do not cross, by the key under which a part has its own."""
    return dict([*_locals(tuple(args), ""), *_locals(dict(kwargs), "")])


def _locals(container: Any, path: str) -> Iterator[tuple[str, Any]]:
    for key, each in container.items() if isinstance(container, dict) else enumerate(container):
        below = f"{path}.{key}" if path else str(key)
        if _is_container(each):
            yield from _locals(each, below)
        elif not isinstance(each, Tensor) and type(each) not in _PLAIN:
            yield below, each


def _is_container(value: Any) -> bool:
    return type(value) in (tuple, list) or (type(value) is dict and all(isinstance(key, str) for key in value))


def rebuilt(node: Outcome, tensor: Any, local: Any) -> Any:
    """What `noted` described; ``tensor(node)`` and ``local(key)`` give what is not in the description."""
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Local):
        return local(node.key)
    if isinstance(node, Many):
        items = [rebuilt(each, tensor, local) for each in node.items]
        if node.kind == "dict":
            return dict(zip(node.keys, items, strict=True))
        return tuple(items) if node.kind == "tuple" else items
    return tensor(node)


def fresh_copy(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for one more run: tensors and caches that it writes to stay as they were.

    Those by name come in the one order in which they are counted.
    """
    memo: dict[int, Any] = {
        id(each): each.detach().clone().requires_grad_(each.requires_grad) for each in tensors_in((args, kwargs))
    }
    return deepcopy((tuple(args), by_name(kwargs)), memo)
