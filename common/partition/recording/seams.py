"""Three places of torch that do not ask a running mode, mended while one of ours runs.

- The fast paths of attention layers are taken when no argument overrides torch functions; torch counts a running mode
  as such an argument, and another path would round differently.
- `torch.autograd.Function.apply` hides from modes, but not what it calls. Cut inside, its backward would be lost.
- `torch.from_numpy` is not seen at all.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,
    _pop_mode_temporarily,
    handle_torch_function,
)

from common.partition.recording.ghosts import Ghost


class SeamlessMode(TorchFunctionMode):
    """A mode that the mended places know."""


_lock = threading.Lock()
_open = 0
_asks = torch.overrides.has_torch_function
_from_numpy = torch.from_numpy
_Function: Any = torch.autograd.function.Function
_apply = _Function.__dict__["apply"]


@contextmanager
def seams_closed() -> Iterator[None]:
    """Mend the places; for other threads nothing changes."""
    global _open  # noqa: PLW0603  as many runs as there are, in any thread
    with _lock:
        _open += 1
        _install(_has_torch_function, _seen_from_numpy, classmethod(_seen_apply))
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                _install(_asks, _from_numpy, _apply)


def _install(asks: Any, from_numpy: Any, apply: Any) -> None:
    torch.overrides.has_torch_function = asks
    torch.from_numpy = from_numpy
    _Function.apply = apply


def _ours() -> bool:
    current: object = _get_current_function_mode()  # type: ignore[no-untyped-call]
    return isinstance(current, SeamlessMode)


def _has_torch_function(relevant_args: Sequence[Any]) -> bool:
    if not _ours():
        return bool(_asks(relevant_args))
    with _pop_mode_temporarily():
        return bool(_asks([each for each in relevant_args if type(each) is not Ghost]))


def _seen_from_numpy(array: Any) -> Any:
    return handle_torch_function(_from_numpy, (), array) if _ours() else _from_numpy(array)


class _Apply:
    """The apply of one autograd function, as a function of its own."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.__module__ = function.__module__
        self.__qualname__ = f"{function.__qualname__}.apply"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Apply) and other._function is self._function

    def __hash__(self) -> int:
        return hash(self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _apply.__get__(None, self._function)(*args, **kwargs)


def _seen_apply(cls: type, *args: Any, **kwargs: Any) -> Any:
    function = _Apply(cls)
    return handle_torch_function(function, (), *args, **kwargs) if _ours() else function(*args, **kwargs)
