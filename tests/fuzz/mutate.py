"""Hostile frames made from honest ones: wrong in one or a few places, and mostly right in all sums."""

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash

from common.wire.framing import ALIGNMENT, VERSION
from common.wire.messages import Message

_PREFIX = struct.Struct("<4sBBHIIQQ")
_NUMBERS = (0, 1, -1, 2, 3, 7, 63, 64, 65, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, (1 << 53) + 1)
_HUGE = (-(1 << 63), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 31) - 1)
_REALS = (0.0, -0.0, 1.5, -1.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"))
_TEXTS = (
    "",
    "x",
    "none",
    "int8",
    "float32",
    "float64",
    "int64",
    "uint8",
    "bool",
    "bfloat16",
    "complex64",
    "\0",
    "\x1b[2J",
)
_TEXTS_MORE = (
    "../../etc/passwd",
    "a.py:b",
    "own:x",
    "delta+int8",
    "topk:1e9",
    "int8+zstd+lz4",
    "\ud7ff" * 20,
    "A" * 5000,
)

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Seed:
    """An honest frame, taken apart."""

    message: list[Any]
    buffers: tuple[bytes, ...]
    paths: tuple[Path, ...]
    """To each value in the message."""

    @classmethod
    def of(cls, message: Message, buffers: Sequence[bytes]) -> "Seed":
        """Take a message apart."""
        plain: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
        return cls(plain, tuple(buffers), tuple(_paths(plain)))


def hostile(seed: Seed, others: Sequence[Seed], rng: random.Random) -> bytes:
    """The bytes of one frame made from ``seed``; now and then with parts of others."""
    message: Any = seed.message
    buffers = list(seed.buffers)
    if rng.random() < 0.9:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            message = _changed(message, rng.choice(seed.paths), others, rng)
    if rng.random() < 0.3:
        _change_buffers(buffers, rng)
    body = b"".join(each + bytes(-len(each) % ALIGNMENT) for each in buffers)
    sizes: Any = [len(each) for each in buffers]
    if rng.random() < 0.08:
        sizes = _changed(sizes, (rng.randrange(len(sizes)),) if sizes else (), others, rng)
    elif sizes and rng.random() < 0.03:
        _shift(sizes, rng)
    if rng.random() < 0.03:
        body = body[: rng.randrange(len(body) + 1)] if rng.random() < 0.5 else body + rng.randbytes(ALIGNMENT)
    try:
        header = msgspec.msgpack.encode([sizes, message])
    except (OverflowError, RecursionError):
        header = b"\x92\x90\xc0"
    if rng.random() < 0.08:
        header = scramble(header, rng)
    return _framed(header, body, rng)


def scramble(data: bytes, rng: random.Random) -> bytes:
    """Change bytes without regard to what they are."""
    if not data:
        return rng.randbytes(8)
    place = rng.randrange(len(data))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + rng.randbytes(rng.randint(1, 9)) + data[place + rng.randint(0, 9) :]
    if kind == 2:
        return data[: place + 1]
    if kind == 3:
        return data[:place] + data[place : place + rng.randint(1, 40)] * rng.randint(2, 30) + data[place:]
    # MessagePack's markers of nested, long and absurd things.
    return (
        data[:place]
        + rng.choice(
            (
                b"\x91" * 2000,
                b"\xdd\xff\xff\xff\xff",
                b"\xdf\xff\xff\xff\xff",
                b"\xc6\xff\xff\xff\xff",
                b"\xc1",
                b"\xd4\x01\x00",
            )
        )
        + data[place:]
    )


def _framed(header: bytes, body: bytes, rng: random.Random) -> bytes:
    digest = xxhash.xxh3_64_intdigest(header + body)
    fields = [b"TNDM", VERSION, 1, 0, len(header), 0, len(body), digest]
    if rng.random() < 0.04:
        which = rng.choice((1, 2, 3, 4, 6, 7))
        most = (0, 255, 255, 65535, (1 << 32) - 1, 0, (1 << 64) - 1, (1 << 64) - 1)[which]
        fields[which] = rng.choice([n for n in (*_NUMBERS, *_HUGE) if 0 <= n <= most])
    fields[5] = xxhash.xxh3_64_intdigest(_PREFIX.pack(*fields)) & 0xFFFFFFFF
    data = _PREFIX.pack(*fields) + header + body
    return scramble(data, rng) if rng.random() < 0.04 else data


def _shift(sizes: list[int], rng: random.Random) -> None:
    """Other sizes with the same sum, some of them absurd."""
    by = ALIGNMENT * rng.choice((1, 2, 100, 1 << 20, 1 << 56))
    sizes[rng.randrange(len(sizes))] -= by
    sizes.insert(rng.randrange(len(sizes) + 1), by)


def _change_buffers(buffers: list[bytes], rng: random.Random) -> None:
    kind, place = rng.randrange(6), rng.randrange(len(buffers) + 1)
    if kind == 0 or place == len(buffers):
        buffers.insert(place, rng.randbytes(rng.choice((0, 1, 7, 64, 300))))
    elif kind == 1:
        del buffers[place]
    elif kind == 2:
        buffers[place] = rng.randbytes(len(buffers[place]))
    elif kind == 3:
        buffers[place] = scramble(buffers[place], rng)
    elif kind == 4:
        buffers[place] = buffers[place][: rng.randrange(len(buffers[place]) + 1)]
    else:
        buffers[place] = bytes([rng.choice((0, 255))]) * len(buffers[place])


def _changed(value: Any, path: Path, others: Sequence[Seed], rng: random.Random) -> Any:
    """``value`` with another one at ``path``; the rest is shared with it, not copied."""
    if not path or not isinstance(value, (dict, list)):
        return _other(value, others, rng)
    key, rest = path[0], path[1:]
    if isinstance(value, dict):
        if key not in value:
            return value
        changed = dict(value)
        if not rest and rng.random() < 0.1:
            del changed[key]
        elif not rest and rng.random() < 0.05:
            changed[rng.choice(_TEXTS)] = changed[key]
        else:
            changed[key] = _changed(value[key], rest, others, rng)
        return changed
    if not isinstance(key, int) or key >= len(value):
        return value
    if not rest and rng.random() < 0.15:
        return rng.choice((value[:key] + value[key + 1 :], value[:key] + value[key : key + 1] * 3 + value[key:]))
    return [*value[:key], _changed(value[key], rest, others, rng), *value[key + 1 :]]


def _other(value: Any, others: Sequence[Seed], rng: random.Random) -> Any:  # noqa: PLR0911 - a table in words
    """What may stand in the place of a value: mostly of its own kind, so that it comes past the first checks."""
    draw = rng.random()
    if draw < 0.1:
        donor = rng.choice(others)
        return _at(donor.message, rng.choice(donor.paths))
    if draw < 0.25 or value is None:
        return rng.choice(
            (None, True, b"\xff\xfe", {}, [], [[]] * 30, ["ping"], {"type": "ping"}, msgspec.msgpack.Ext(5, b"x"), "")
        )
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, 2 * value, rng.choice(_NUMBERS), rng.choice(_HUGE)))
    if isinstance(value, float):
        return rng.choice(_REALS)
    if isinstance(value, bytes):
        return rng.choice((b"", value[:-1], value + b"\0", rng.randbytes(len(value)), bytes(5000)))
    if isinstance(value, str):
        return rng.choice((*_TEXTS, *_TEXTS_MORE, value + "x", value[:-1]))
    if isinstance(value, list):
        return rng.choice(([], value * 2, value[::-1], [0] * rng.choice((1, 65, 5000)), [*value, *value, *value]))
    return {}


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _paths(value: Any, before: Path = ()) -> Iterator[Path]:
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, each in items:
        yield (*before, key)
        yield from _paths(each, (*before, key))
