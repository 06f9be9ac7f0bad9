"""Lists of whole numbers from an array of objects in an .npz file, which NumPy itself reads only by unpickling.

Such an array (Keras's ``imdb.npz`` has four) is stored as a pickle. Here nothing is unpickled: the few operations that
build lists of whole numbers are carried out, names of code become plain marks, and a call of such a name makes one more
mark. Nothing is imported, called or evaluated; a file that needs more is refused.
"""

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple, NoReturn

import numpy as np

from common.errors import DataError

_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_STATE = 5  # version, shape, dtype, order, and the list of elements
_MARK = object()
_CODE = object()
# Operations that take so many bytes behind them and change nothing.
_SKIPPED = {0x80: 1, 0x95: 8}  # version of the format, size of a frame
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_CONSTANTS: dict[int, object] = {ord("N"): None, 0x88: True, 0x89: False}
_STOP, _BYTE, _TWO_BYTES, _FOUR_BYTES = b".KMJ"
_INT = struct.Struct("<i")
# Strings, by how their length is written.
_STRINGS = {
    **dict.fromkeys(map(ord, "XTB"), struct.Struct("<I")),
    **dict.fromkeys((ord("U"), ord("C"), 0x8C), struct.Struct("<B")),
}
_PUTS = {ord("q"): struct.Struct("<B"), ord("r"): struct.Struct("<I")}
_GETS = {ord("h"): struct.Struct("<B"), ord("j"): struct.Struct("<I")}


class Called(NamedTuple):
    """What a name of code would make of something; it is never called."""

    state: list[Any]


def lists_of_numbers(data: bytes, source: str) -> list[list[int]]:
    """The lists in the bytes of an .npy file of objects.

    Args:
        data: of the file.
        source: what to call it in an error.

    Raises:
        DataError: the file is damaged, or holds anything else.
    """
    try:
        stream = BytesIO(data)
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
        made = _Reader(data, stream.tell()).run() if dtype.hasobject else None
    except Exception as error:
        raise DataError(f"{source} is damaged, or is no array of lists of whole numbers ({error})") from error
    state = made.state[-1] if isinstance(made, Called) and made.state else None
    rows = state[-1] if isinstance(state, tuple) and len(state) == _STATE else None
    if not isinstance(rows, list) or shape != (len(rows),) or not all(map(_is_numbers, rows)):
        raise DataError(f"{source} holds something else than lists of whole numbers, and is not read")
    return rows


def _is_numbers(row: object) -> bool:
    return isinstance(row, list) and all(type(each) is int for each in row)


class _Reader:
    """The operations one after the other, on a stack of plain values."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._at = start
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> object:
        """What is left on the stack at the end."""
        data, stack, at = self._data, self._stack, self._at
        while (code := data[at]) != _STOP:
            at += 1
            if code == _BYTE:  # this and the next are nearly all there is, millions of them
                stack.append(data[at])
                at += 1
            elif code == _TWO_BYTES:
                stack.append(data[at] | data[at + 1] << 8)
                at += 2
            else:
                self._at = at
                if not (self._values(code) or self._containers(code) or self._names(code)):
                    raise ValueError(f"operation 0x{code:02x} at byte {at - 1}")
                at = self._at
        return stack.pop()

    def _values(self, code: int) -> bool:
        if code == _FOUR_BYTES:
            self._stack.append(self._unpacked(_INT))
        elif code in _SKIPPED:
            self._at += _SKIPPED[code]
        elif code in _CONSTANTS:
            self._stack.append(_CONSTANTS[code])
        elif code in _STRINGS:
            size = self._unpacked(_STRINGS[code])
            self._stack.append(self._data[self._at : self._at + size])
            self._at += size
        elif code in _PUTS:
            self._memo[self._unpacked(_PUTS[code])] = self._stack[-1]
        elif code == 0x94:  # as the last, under the next number
            self._memo[len(self._memo)] = self._stack[-1]
        elif code in _GETS:
            self._stack.append(self._memo[self._unpacked(_GETS[code])])
        else:
            return False
        return True

    def _containers(self, code: int) -> bool:
        stack = self._stack
        if code == ord("("):
            stack.append(_MARK)
        elif code == ord("]"):
            stack.append([])
        elif code == ord("e"):
            items = self._to_mark()
            self._list().extend(items)
        elif code == ord("a"):
            item = stack.pop()
            self._list().append(item)
        elif code == ord(")"):
            stack.append(())
        elif code == ord("t"):
            stack.append(tuple(self._to_mark()))
        elif code in _TUPLES:
            count = _TUPLES[code]
            stack[-count:] = [tuple(stack[-count:])]
        else:
            return False
        return True

    def _names(self, code: int) -> bool:
        stack = self._stack
        if code == ord("c"):  # a module and a name in it, a line each
            for _ in range(2):
                self._at = self._data.index(b"\n", self._at) + 1
            stack.append(_CODE)
        elif code == 0x93:  # the same from the stack
            stack[-2:] = [_CODE]
        elif code == ord("R"):
            stack[-2:] = [Called([])]
        elif code == ord("b"):
            state = stack.pop()
            if not isinstance(stack[-1], Called):
                _refuse("a state of what is nothing of code's")
            stack[-1].state.append(state)
        else:
            return False
        return True

    def _unpacked(self, size: struct.Struct) -> int:
        value: int = size.unpack_from(self._data, self._at)[0]
        self._at += size.size
        return value

    def _to_mark(self) -> list[Any]:
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                _refuse("the end of a list that has no beginning")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _list(self) -> list[Any]:
        if not isinstance(self._stack[-1], list):
            _refuse("elements of what is no list")
        found: list[Any] = self._stack[-1]
        return found


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)
