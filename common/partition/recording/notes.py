"""What a run notes of each call: its outcome, and weak references to the tensors that it made."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import PartitionError
from common.partition.recording.calls import Call, folded
from common.partition.recording.nested import tensors_in
from common.partition.recording.outcomes import (
    ASIDE,
    DTYPES,
    NESTED,
    REQUIRES_GRAD,
    Entry,
    Fresh,
    Here,
    Many,
    Nothing,
    Opaque,
    Outcome,
    Plain,
    Same,
    Turned,
)

_DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}
_NOTHING, _PLAIN, _TUPLE, _ARRAY = Nothing(), Plain(), Plain(1), Plain(2)
_SCALARS = (bool, int, float, str)
_NESTED = (tuple, list)


class Notes:
    """The calls of a run as they are made, with weak references to the tensors they made."""

    def __init__(self, on_cpu: bool) -> None:
        self.entries: list[Entry] = []
        self.tensors: list[Callable[[], Tensor | None]] = []
        """Each new tensor, in order: its number is its place here."""
        self.values: list[Any] = []
        """Of plain outcomes, in order."""
        self.numbers = 0
        """Hash of the whole numbers among the arguments."""
        self._on_cpu = on_cpu

    def add(self, call: Call, result: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Outcome:
        """Note a call that is done."""
        self.numbers = folded(self.numbers, args)
        if kwargs:
            self.numbers = folded(self.numbers, kwargs.values())
        outcome = self._of(result, args, kwargs)
        if call.reshapes and isinstance(outcome, Same):
            outcome = Turned(outcome.index, result.shape)
        self.entries.append((call.code, outcome))
        return outcome

    def fresh(self, tensor: Tensor) -> Fresh:
        """Note a new tensor."""
        self.tensors.append(weakref.ref(tensor))
        try:
            number = _DTYPE_NUMBERS[tensor.dtype]
        except KeyError:
            raise PartitionError(f"a model with tensors of {tensor.dtype} cannot be cut by recording") from None
        traits = REQUIRES_GRAD if tensor.requires_grad else 0
        if not self._on_cpu and tensor.is_cpu:
            traits |= ASIDE
        if tensor.is_nested:
            return Fresh((1,) * tensor.dim(), number, traits | NESTED)
        return Fresh(tensor.shape, number, traits)

    def _of(self, result: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Outcome:
        if isinstance(result, Tensor):
            index = _place_among(result, args, kwargs)
            return self.fresh(result) if index is None else Same(index)
        if result is None:
            return _NOTHING
        if _is_plain(result):
            self.values.append(result)
            return _TUPLE if isinstance(result, tuple) else _PLAIN
        return self._compound(result, args, kwargs)

    def _compound(self, result: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Outcome:
        items: Sequence[Any] | None = result if isinstance(result, tuple | list) else None
        keys: tuple[str, ...] = ()
        if type(result) is dict and all(isinstance(key, str) for key in result):
            items, keys = list(result.values()), tuple(result)
        if items is not None:
            return Many(_kind(result), tuple(self._of(each, args, kwargs) for each in items), keys)
        if isinstance(result, np.ndarray) and result.dtype.kind in "biufc":
            self.values.append([result.dtype.str, list(result.shape), result.tobytes()])
            return _ARRAY
        # What is made of nothing but plain values is made on either side.
        return Here() if next(tensors_in((args, kwargs)), None) is None else Opaque(type(result).__name__)


def _place_among(tensor: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> int | None:
    for each in args:
        if each is tensor or (type(each) in _NESTED and each and not isinstance(each[0], int)):
            break
    else:
        for each in kwargs.values():
            if each is tensor or (type(each) in _NESTED and each and not isinstance(each[0], int)):
                break
        else:
            return None
    return next((place for place, each in enumerate(tensors_in((args, kwargs))) if each is tensor), None)


def _is_plain(value: Any) -> bool:
    if isinstance(value, _SCALARS):
        return True
    if type(value) in (list, tuple, torch.Size):
        return not value or (all(map(_is_plain_item, value)))
    return False


def _is_plain_item(value: Any) -> bool:
    return isinstance(value, _SCALARS) or (type(value) is list and all(map(_is_plain_item, value)))


def _kind(container: Any) -> str:
    name = type(container).__name__
    if name in ("list", "dict") or type(container) is getattr(torch.return_types, name, None):
        return name
    return "tuple"
