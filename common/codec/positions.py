"""Where the values of a sparse tensor stand, in few bytes: as a bitmap, or as gaps, whichever is smaller.

A gap is the number of elements that are left out in front of a value: one byte, with a byte 255 in front of it for each
255 elements. Of one value in ten, either takes about a byte a value; the rarer the values, the better the gaps.
"""

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_MORE = 255


def pack_positions(positions: Positions, elements: int) -> Bytes:
    """The bytes of ascending positions below ``elements``."""
    gaps = np.diff(positions, prepend=-1) - 1
    more = gaps // _MORE
    if len(gaps) + int(more.sum()) >= bitmap_bytes(elements):
        mask = np.zeros(elements, np.bool_)
        mask[positions] = True
        return np.packbits(mask, bitorder="little")
    packed = np.full(len(gaps) + int(more.sum()), _MORE, np.uint8)
    packed[np.cumsum(more + 1) - 1] = gaps % _MORE
    return packed


def unpack_positions(packed: Bytes, count: int, elements: int) -> Positions:
    """The ``count`` positions.

    Raises:
        ValueError: bytes that `pack_positions` does not make of so many positions.
    """
    if len(packed) == bitmap_bytes(elements):
        positions = np.flatnonzero(np.unpackbits(packed, count=elements, bitorder="little"))
        good = len(positions) == count
    else:
        (ends,) = np.nonzero(packed != _MORE)
        positions = np.cumsum(packed, dtype=np.int64)[ends] + np.arange(len(ends))
        good = len(ends) == count and (not count or int(positions[-1]) < elements)
        good = good and (not len(packed) or packed[-1] != _MORE)
    if not good:
        raise ValueError(f"{len(packed)} bytes are not {count} positions below {elements}")
    return positions


def bitmap_bytes(elements: int) -> int:
    """Bytes of a bitmap; positions never take more."""
    return -(-elements // 8)
