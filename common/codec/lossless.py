"""Lossless stages: bytes <-> fewer bytes."""

import time
from collections.abc import Callable
from typing import Protocol

import lz4.block
import zstandard

from common.errors import CodecError
from common.wire.framing import Buffer

_ZSTD_RATIO = 1 << 15  # a block of 4 bytes repeats one byte 128 KiB times
_LZ4_RATIO = 255  # a byte of a match's length stands for 255 bytes
_SAMPLE = 1 << 14  # bytes; a few of these stand for a buffer
_WORTH = 0.9  # of its size, to which a sample must shrink where nothing is known of the link
_DECODING = 0.5  # of the time that packing takes, which unpacking takes


class LosslessStage(Protocol):
    """Compresses one buffer."""

    def compress(self, raw: Buffer) -> Buffer:
        """Fewer bytes, or ``raw`` itself where there would be more."""

    def decompress(self, packed: Buffer, nbytes: int) -> Buffer:
        """The ``nbytes`` bytes that were compressed; more are never allocated."""


class Stored:
    """No compression."""

    def compress(self, raw: Buffer) -> Buffer:
        """The bytes themselves."""
        return raw

    def decompress(self, packed: Buffer, nbytes: int) -> Buffer:
        """The bytes themselves, if there are as many as announced."""
        _check_size(len(packed), nbytes)
        return packed


class Zstd:
    """``+zstd``: Zstandard at its fastest regular level; bit patterns of few values shrink most."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
        self._decompressor = zstandard.ZstdDecompressor()

    def compress(self, raw: Buffer) -> Buffer:
        """One Zstandard frame, or ``raw`` where that would be no smaller."""
        return _smaller(self._compressor.compress(raw), raw)

    def decompress(self, packed: Buffer, nbytes: int) -> Buffer:
        """The content of the frame; its announced size is checked first."""
        if len(packed) == nbytes:
            return packed
        _check_possible(len(packed), nbytes, _ZSTD_RATIO)
        try:
            _check_size(zstandard.frame_content_size(packed), nbytes)
            content = self._decompressor.decompress(packed, max_output_size=nbytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodecError(f"a zstd buffer cannot be decompressed: {error}") from None
        _check_size(len(content), nbytes)
        return content


class Lz4:
    """``+lz4``: LZ4 blocks; several times faster than Zstandard, and larger."""

    def compress(self, raw: Buffer) -> Buffer:
        """One LZ4 block, or ``raw`` where that would be no smaller."""
        return _smaller(lz4.block.compress(raw, store_size=False), raw)

    def decompress(self, packed: Buffer, nbytes: int) -> Buffer:
        """The content of the block."""
        if len(packed) == nbytes:
            return packed
        _check_possible(len(packed), nbytes, _LZ4_RATIO)
        try:
            content: bytearray = lz4.block.decompress(packed, uncompressed_size=nbytes, return_bytearray=True)
        except (lz4.block.LZ4BlockError, OverflowError) as error:
            raise CodecError(f"an lz4 buffer cannot be decompressed: {error}") from None
        _check_size(len(content), nbytes)
        return content


class Auto:
    """``+auto``: Zstandard where it pays. A sample of each buffer tells its ratio and speed.

    Where `link_bps` is known, a buffer is packed if sending what that saves would take longer than packing and
    unpacking; else if it becomes a tenth smaller. Time decides about bytes only, never about what they decode to.

    Args:
        clock: seconds that this thread has computed.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.link_bps: float | None = None
        """Bits a second between the machines, as far as the owner of the codec has measured them."""
        self._zstd, self._clock = Zstd(), clock

    def compress(self, raw: Buffer) -> Buffer:
        """One Zstandard frame, or ``raw`` where that would be no gain."""
        sample = _sample(raw)
        start = self._clock()
        packed = self._zstd.compress(sample)
        seconds = self._clock() - start
        if len(sample) == len(raw) and self.link_bps is None:
            return packed
        if self.link_bps is None:
            worth = len(packed) < _WORTH * len(sample)
        else:
            worth = 8 * (len(sample) - len(packed)) / self.link_bps > (1 + _DECODING) * seconds
        return self._zstd.compress(raw) if worth else raw

    def decompress(self, packed: Buffer, nbytes: int) -> Buffer:
        """As `Zstd`."""
        return self._zstd.decompress(packed, nbytes)


def _sample(raw: Buffer) -> Buffer:
    """Some stretches of a buffer, from its beginning to its end; all of a small one."""
    if len(raw) <= 4 * _SAMPLE:
        return raw
    view, apart = memoryview(raw), (len(raw) - _SAMPLE) // 3
    return b"".join(view[start : start + _SAMPLE] for start in range(0, 3 * apart + 1, apart))


def _smaller(packed: Buffer, raw: Buffer) -> Buffer:
    # A packed buffer is always the smaller one, so its size alone says whether it is packed.
    return packed if len(packed) < len(raw) else raw


def _check_possible(packed: int, announced: int, ratio: int) -> None:
    """Before anything is allocated: no buffer may stand for more than its format can pack into it."""
    if not packed < announced <= ratio * packed:
        raise CodecError(f"a packed buffer of {packed} bytes cannot hold the {announced} bytes of its tensor")


def _check_size(nbytes: int, announced: int) -> None:
    if nbytes != announced:
        raise CodecError(f"a buffer holds {nbytes} bytes; its tensor needs {announced}")


LOSSLESS: dict[str, Callable[[], LosslessStage]] = {"zstd": Zstd, "lz4": Lz4, "auto": Auto}
