"""Messages <-> frames, without I/O: `pack` makes a frame's buffers, `FrameReader` reads frames from bytes.

A frame is a 32-byte prefix, a msgpack header and a body of aligned buffers; the offsets are in
``docs/protocol.md``. No tensor byte is copied: `pack` returns the caller's buffers, the reader hands out views
of the one block that the bytes were received into.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import xxhash

from common.errors import ProtocolError
from common.wire.messages import Message
from common.wire.structs import Struct

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"TNDM"
VERSION = 2
ALIGNMENT = 64
"""Each buffer starts at a multiple of this in the body, as torch aligns its own memory."""

_TLS = b"\x16\x03"  # how a TLS handshake begins
_CHECKSUM = 0b1
_PREFIX = struct.Struct("<4sBBHIIQQ")
_PAD = bytes(ALIGNMENT)


@dataclass(frozen=True)
class Limits:
    """What a reader accepts; checked before anything is allocated."""

    header_bytes: int = 1 << 20
    body_bytes: int = 1 << 30
    buffers: int = 1 << 12


@dataclass(frozen=True)
class Frame:
    """One message with its buffers, as received."""

    message: Message
    buffers: tuple[memoryview, ...]
    nbytes: int
    """Size of the whole frame on the wire."""


class _Header(Struct, frozen=True, array_like=True):
    sizes: tuple[int, ...]
    message: Message


_encoder = msgspec.msgpack.Encoder()


def pack(message: Message, buffers: Sequence[Buffer] = (), *, checksum: bool = True) -> list[Buffer]:
    """The frame of a message, as buffers to be written one after the other.

    Args:
        message: any message.
        buffers: contiguous byte buffers of its body; they are referred to, not copied.
        checksum: off under TLS, which has its own.
    """
    views = [memoryview(each).cast("B") for each in buffers]
    header = _encoder.encode(_Header(tuple(view.nbytes for view in views), message))
    body: list[Buffer] = []
    for view in views:
        body.append(view)
        if padding := -view.nbytes % ALIGNMENT:
            body.append(_PAD[:padding])
    digest = 0
    if checksum:
        state = xxhash.xxh3_64(header)
        for part in body:
            state.update(part)
        digest = state.intdigest()
    body_bytes = sum(_padded(view.nbytes) for view in views)
    flags = _CHECKSUM if checksum else 0
    return [_prefix(flags, len(header), body_bytes, digest) + header, *body]


def frame_bytes(parts: Sequence[Buffer]) -> int:
    """Size on the wire of what `pack` returned."""
    return sum(len(part) for part in parts)


def _prefix(flags: int, header_bytes: int, body_bytes: int, digest: int) -> bytes:
    check = _PREFIX.pack(MAGIC, VERSION, flags, 0, header_bytes, 0, body_bytes, digest)
    return _PREFIX.pack(MAGIC, VERSION, flags, 0, header_bytes, _fold(check), body_bytes, digest)


def _fold(prefix: bytes) -> int:
    return xxhash.xxh3_64_intdigest(prefix) & 0xFFFFFFFF


def _padded(nbytes: int) -> int:
    return nbytes + -nbytes % ALIGNMENT


def _aligned_block(nbytes: int) -> memoryview:
    """Uninitialised memory that starts at a multiple of `ALIGNMENT`."""
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block.data[start : start + nbytes]


class FrameReader:
    """Reads frames from bytes that arrive in any portions.

    Fill the start of `get_buffer()` with ``n`` received bytes, then call ``buffer_updated(n)``. The buffer never
    reaches beyond the frame at hand, so a driver may wait until it is full. A reader that raised is of no
    further use.
    """

    def __init__(self, limits: Limits | None = None, *, checksum: bool = True) -> None:
        self.limits = limits or Limits()
        self._checksum = checksum
        self._decoder = msgspec.msgpack.Decoder(_Header)
        self._expect_prefix()

    @property
    def at_boundary(self) -> bool:
        """Whether no frame is begun: the only place where the peer may close."""
        return self._part == "prefix" and self._filled == 0

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return self._target[self._filled :]

    def buffer_updated(self, nbytes: int) -> list[Frame]:
        """Take note of ``nbytes`` written to the start of `get_buffer()`; returns the frame that they complete.

        Raises:
            ProtocolError: bytes that are no frame, break a limit, or do not match their checksum.
        """
        if self._part != "prefix":
            self._state.update(self._target[self._filled : self._filled + nbytes])
        self._filled += nbytes
        if self._filled < len(self._target):
            return []
        if self._part == "prefix":
            self._read_prefix()
            return []
        if self._part == "header":
            self._read_header()
            if len(self._target):
                return []
        return [self._complete()]

    def _expect_prefix(self) -> None:
        self._part = "prefix"
        self._expect(memoryview(bytearray(_PREFIX.size)))

    def _expect(self, target: memoryview) -> None:
        self._target = target
        self._filled = 0

    def _read_prefix(self) -> None:
        prefix = bytes(self._target)
        magic, version, flags, reserved, header_bytes, check, body_bytes, digest = _PREFIX.unpack(prefix)
        if magic[:2] == _TLS:
            raise ProtocolError(
                "the peer speaks TLS, and this side was started without it: give both sides --security FOLDER; on a "
                "network that you trust, --insecure"
            )
        if magic != MAGIC:
            raise ProtocolError(
                f"the peer does not speak Tandem's protocol (its first bytes are {prefix[:8]!r}); "
                "is this the right address and port?"
            )
        if version != VERSION:
            raise ProtocolError(
                f"the peer's frames have version {version}, this side reads {VERSION}; install the same version of "
                "Tandem on both machines"
            )
        if check != _fold(prefix[:12] + bytes(4) + prefix[16:]):
            raise ProtocolError("a frame prefix is damaged: its check value does not match")
        if flags & ~_CHECKSUM or reserved:
            raise ProtocolError(f"a frame has unknown flags {flags:#x}/{reserved:#x}")
        if self._checksum and not flags & _CHECKSUM:
            raise ProtocolError("a frame has no checksum, which this connection needs")
        self._check_limit("header", header_bytes, self.limits.header_bytes)
        self._check_limit("body", body_bytes, self.limits.body_bytes)
        if not header_bytes:
            raise ProtocolError("a frame has no header")
        self._body_bytes, self._digest, self._has_digest = body_bytes, digest, bool(flags & _CHECKSUM)
        self._header_bytes = header_bytes
        self._state = xxhash.xxh3_64()
        self._part = "header"
        self._expect(memoryview(bytearray(header_bytes)))

    def _check_limit(self, part: str, nbytes: int, limit: int) -> None:
        if nbytes > limit:
            raise ProtocolError(f"a frame announces a {part} of {nbytes} bytes; the limit here is {limit}")

    def _read_header(self) -> None:
        try:
            self._header = self._decoder.decode(self._target)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._check_digest_if_whole()
            raise ProtocolError(
                f"a frame header cannot be read: {error}; do both machines have the same version of Tandem?"
            ) from None
        sizes = self._header.sizes
        if len(sizes) > self.limits.buffers:
            raise ProtocolError(f"a frame announces {len(sizes)} buffers; the limit here is {self.limits.buffers}")
        if min(sizes, default=0) < 0 or sum(map(_padded, sizes)) != self._body_bytes:
            raise ProtocolError(f"buffers of {list(sizes)} bytes do not make a body of {self._body_bytes}")
        self._part = "body"
        self._expect(_aligned_block(self._body_bytes))

    def _check_digest_if_whole(self) -> None:
        """A header that cannot be read is told as damage where the checksum already shows it."""
        if not self._body_bytes:
            self._check_digest()

    def _check_digest(self) -> None:
        if self._has_digest and self._state.intdigest() != self._digest:
            raise ProtocolError("a frame is damaged: its checksum does not match")

    def _complete(self) -> Frame:
        self._check_digest()
        body, views, start = self._target, [], 0
        for size in self._header.sizes:
            views.append(body[start : start + size])
            start += _padded(size)
        nbytes = _PREFIX.size + self._header_bytes + self._body_bytes
        frame = Frame(self._header.message, tuple(views), nbytes)
        self._expect_prefix()
        return frame


def feed(reader: FrameReader, data: Buffer) -> list[Frame]:
    """Give a reader bytes that are already in memory; returns the frames they complete."""
    rest, frames = memoryview(data).cast("B"), []
    while len(rest):
        target = reader.get_buffer()
        n = min(len(target), len(rest))
        target[:n] = rest[:n]
        frames += reader.buffer_updated(n)
        rest = rest[n:]
    return frames
