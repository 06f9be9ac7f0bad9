"""What travels beside the tensors so that the next part's Python takes the same way: one small uint8 tensor.

It is a msgpack message of two parts. The route says what the calls before the cut gave: which function, and a shape,
a tensor that crosses, or a number. Runs alike have the same bytes there, so neither side works them out twice; equal
calls are listed once, and the whole is compressed. The values are the numbers of this run. Nothing of it is code, and
all of it is checked before it is used.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import torch
import xxhash
import zstandard
from torch import Tensor

from common.errors import PartitionError
from common.partition.recording.outcomes import (
    DTYPES,
    Entry,
    Fresh,
    Here,
    Kept,
    Literal,
    Local,
    Many,
    Nothing,
    Outcome,
    Plain,
    Same,
    Turned,
)

_Wire = Fresh | Same | Plain | Nothing | Many | Kept | Here | Literal | Local | Turned
_VERSION = 1
_MOST_BYTES = 1 << 24
_MOST_CALLS = 1 << 20
_MOST_DIMENSIONS = 64
_MOST_ELEMENTS = 1 << 62


class Route(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the calls before a cut gave."""

    version: int
    seal: int
    """Hash of the cut's key and of the codes of the calls, in order."""
    inputs: _Wire
    calls: tuple[tuple[int, _Wire], ...]
    """Code and outcome, each pair once."""
    order: bytes
    """Of each call of the run, its number in ``calls``; of one byte, or of two where there are more."""


class Journey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The message."""

    route: bytes
    """Compressed."""
    numbers: int
    """Hash of the whole numbers among the arguments of the calls."""
    values: tuple[bool | int | float | str | list[Any], ...]


_encoder = msgspec.msgpack.Encoder()
_journeys = msgspec.msgpack.Decoder(Journey)
_routes = msgspec.msgpack.Decoder(Route)


def packed_route(key: str, inputs: Outcome, entries: Sequence[Entry]) -> bytes:
    """The route of the calls before the cut ``key``, compressed."""
    numbers: dict[Entry, int] = {}
    order = [numbers.setdefault(entry, len(numbers)) for entry in entries]
    width = np.uint8 if len(numbers) <= 256 else np.dtype("<u2")
    if len(numbers) > 65535 or len(entries) > _MOST_CALLS:
        raise PartitionError(f"{len(entries)} calls lie before this cut; {_MOST_CALLS} can travel")
    seal = _seal(key, [code for code, _ in entries])
    calls: Any = tuple((code, outcome) for code, outcome in numbers)
    route = Route(_VERSION, seal, inputs, calls, np.array(order, width).tobytes())  # type: ignore[arg-type]
    # Not kept: a compressor must not be used by two threads at once.
    return zstandard.ZstdCompressor(level=3, write_checksum=False).compress(_encoder.encode(route))


def packed(route: bytes, numbers: int, values: Sequence[Any]) -> Tensor:
    """The journey of a run."""
    try:
        message = _encoder.encode(Journey(route, numbers, tuple(map(_wire_value, values))))
    except (OverflowError, TypeError, msgspec.MsgspecError) as error:
        raise PartitionError(f"a number that this model reads from its tensors cannot travel: {error}") from error
    if len(message) > _MOST_BYTES:
        raise PartitionError(f"the numbers that the model reads from its tensors are {len(message)} bytes")
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)


def unpacked(tensor: Any) -> Journey:
    """The journey in a tensor that crossed.

    Raises:
        PartitionError: it is none.
    """
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise PartitionError("the last tensor that crosses must be the journey that the part before made")
    if tensor.numel() > _MOST_BYTES:
        raise PartitionError(f"the journey has {tensor.numel()} bytes; at most {_MOST_BYTES} are accepted")
    try:
        return _journeys.decode(tensor.detach().cpu().numpy().tobytes())
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PartitionError(f"the journey cannot be read: {error}") from error


def checked_route(packed: bytes, key: str, tensors: int) -> tuple[Route, list[Entry]]:
    """Read a route and check all of it.

    Args:
        packed: as it crossed.
        key: of the cut that this side was made for.
        tensors: how many crossed with it.

    Returns:
        The route, and its calls in order.

    Raises:
        PartitionError: bytes that are no route, or one of another cut.
    """
    try:
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= _MOST_BYTES:
            raise PartitionError(f"the route has {size} bytes; at most {_MOST_BYTES} are accepted")
        raw = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MOST_BYTES, allow_extra_data=False)
        route = _routes.decode(raw)
    except (zstandard.ZstdError, msgspec.MsgspecError, RecursionError) as error:
        raise PartitionError(f"the journey cannot be read: {error}") from error
    order = np.frombuffer(route.order, np.uint8) if len(route.calls) <= 256 else _pairs(route.order)
    if route.version != _VERSION or len(order) > _MOST_CALLS:
        raise PartitionError(f"the journey has version {route.version} and {len(order)} calls; this side {_VERSION}")
    if len(order) and int(order.max()) >= len(route.calls):
        raise PartitionError("the journey names a call that it does not describe")
    entries: list[Entry] = [route.calls[number] for number in order.tolist()]
    for outcome in (route.inputs, *(outcome for _, outcome in route.calls)):
        _check(outcome, tensors)
    if route.seal != _seal(key, [code for code, _ in entries]):
        raise PartitionError("the part before was cut elsewhere than this one, or its journey was damaged")
    return route, entries


def _pairs(order: bytes) -> "np.ndarray[Any, np.dtype[np.uint16]]":
    if len(order) % 2:
        raise PartitionError("the journey ends within a number")
    return np.frombuffer(order, np.dtype("<u2"))


def _check(outcome: Outcome, tensors: int) -> None:
    for each in _all(outcome):
        fine = True
        if isinstance(each, Fresh):
            fine = _possible(each.shape) and 0 <= each.dtype < len(DTYPES)
        elif isinstance(each, Turned):
            fine = _possible(each.shape) and each.index >= 0
        elif isinstance(each, Kept):
            fine = 0 <= each.index < tensors
        elif isinstance(each, Same):
            fine = each.index >= 0
        elif isinstance(each, Many):
            fine = len(each.items) == len(each.keys) if each.kind == "dict" else not each.keys
            fine = fine and (each.kind in ("tuple", "list", "dict") or container(each.kind) is not None)
        if not fine:
            raise PartitionError(f"the journey speaks of {each}, beside {tensors} tensors")


def _possible(shape: tuple[int, ...]) -> bool:
    elements = 1
    for size in shape:
        elements *= max(size, 1)
        if size < 0 or elements > _MOST_ELEMENTS:
            return False
    return len(shape) <= _MOST_DIMENSIONS


def _all(outcome: Outcome) -> Iterator[Outcome]:
    yield outcome
    if isinstance(outcome, Many):
        for each in outcome.items:
            yield from _all(each)


def container(kind: str) -> Callable[[Sequence[Any]], Any] | None:
    """The type of results with named fields that torch calls so."""
    found = torch.return_types.__dict__.get(kind)
    return found if isinstance(found, type) and issubclass(found, tuple) else None


@lru_cache(maxsize=64)
def _seal_of_key(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode())


def _seal(key: str, codes: Sequence[int]) -> int:
    return xxhash.xxh3_64_intdigest(np.array(codes, "<u4").tobytes(), seed=_seal_of_key(key))


def _wire_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_value(value: Any, form: int) -> Any:
    """A value as the call gave it.

    Raises:
        PartitionError: it is not of this form.
    """
    if form == 0:
        return value
    try:
        if form == 1:
            return tuple(value)
        kind, shape, data = value
        if np.dtype(kind).kind not in "biufc":
            raise PartitionError(f"the journey has an array of {kind}")
        return np.frombuffer(data, np.dtype(kind)).reshape(shape).copy()
    except (TypeError, ValueError) as error:
        raise PartitionError(f"the journey has a value of a wrong form: {error}") from error
