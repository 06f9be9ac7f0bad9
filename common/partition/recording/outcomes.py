"""What a call gave, in words that cross: a run is noted as the outcome of each of its calls."""

from collections.abc import Iterator
from typing import TypeAlias

import msgspec
import torch

DTYPES: tuple[torch.dtype, ...] = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.complex32,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
"""By their number in a journey."""


REQUIRES_GRAD = 1
ASIDE = 2
"""On the CPU, while the part is not."""
NESTED = 4
"""A nested tensor, of which only the number of dimensions is told."""


class Fresh(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A new tensor; in a journey, one that does not cross."""

    shape: tuple[int, ...]
    dtype: int
    traits: int
    """A sum of `REQUIRES_GRAD`, `ASIDE` and `NESTED`."""


class Same(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A tensor among the arguments, by its number there; among the inputs, the new tensor of that number."""

    index: int


class Plain(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A number or text, or a list of such; its value is the next one of the journey."""

    form: int = 0
    """0: as it is, 1: a tuple, 2: an array."""


class Nothing(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """None."""


class Many(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A container of outcomes."""

    kind: str
    """``tuple``, ``list``, ``dict``, or the name of one of `torch.return_types`."""
    items: "tuple[Outcome, ...]"
    keys: tuple[str, ...] = ()


class Kept(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A tensor that crosses, by its number there."""

    index: int


class Here(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """To be computed where it is needed."""


class Literal(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """An input that is a plain value."""

    value: bool | int | float | str | None


class Local(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """An input that each part has of its own."""

    key: str


class Opaque(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """An object that cannot cross."""

    kind: str


class Turned(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A tensor among the arguments, that has another shape from now on."""

    index: int
    shape: tuple[int, ...]


Outcome: TypeAlias = Fresh | Same | Plain | Nothing | Many | Kept | Here | Literal | Local | Opaque | Turned
Entry: TypeAlias = tuple[int, Outcome]
"""Code of a call, and what it gave."""


def fresh_in(outcome: Outcome) -> Iterator[Fresh]:
    """The new tensors of an outcome, in the order of their numbers."""
    if isinstance(outcome, Fresh):
        yield outcome
    elif isinstance(outcome, Many):
        for each in outcome.items:
            yield from fresh_in(each)


def alike(a: Outcome, b: Outcome) -> bool:
    """Whether two outcomes differ in nothing but the sizes of their tensors."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Fresh) and isinstance(b, Fresh):
        return a.dtype == b.dtype and len(a.shape) == len(b.shape)
    if isinstance(a, Many) and isinstance(b, Many):
        same = a.kind == b.kind and a.keys == b.keys and len(a.items) == len(b.items)
        return same and all(map(alike, a.items, b.items))
    if isinstance(a, Turned) and isinstance(b, Turned):
        return a.index == b.index and len(a.shape) == len(b.shape)
    return a == b or isinstance(a, Literal)
