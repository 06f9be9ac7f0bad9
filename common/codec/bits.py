"""Codes of 4 and 2 bits <-> bytes: two or four neighbours in each, the first in the lowest bits."""

import torch
from torch import Tensor

_WORDS = {4: torch.int16, 2: torch.int32}  # as many neighbouring codes, a byte each, as one packed byte takes


def packed_bytes(codes: int, bits: int) -> int:
    """Bytes that so many codes take."""
    return -(-codes * bits // 8)


def padded(codes: int, bits: int) -> int:
    """Number of codes that fill these bytes."""
    return packed_bytes(codes, bits) * 8 // bits


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack a flat uint8 tensor, as long as `padded` says; codes behind the last one must be 0."""
    if bits == 8:
        return codes
    # Neighbours are read as one little-endian number; shifting brings all of them into its lowest byte.
    words = codes.view(_WORDS[bits])
    packed = words | (words >> (8 - bits))
    if bits == 2:
        packed |= (words >> 12) | (words >> 18)
    return packed.to(torch.uint8)


def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """The codes of a flat uint8 tensor, a byte each, those of the padding included."""
    if bits == 8:
        return packed
    words = packed.to(_WORDS[bits])
    codes = words | (words << (8 - bits))
    if bits == 2:
        codes |= (words << 12) | (words << 18)
    return (codes & (0x0F0F if bits == 4 else 0x03030303)).view(torch.uint8)
