"""What becomes of one tensor before the lossless stage: sparsity, then values; without any memory of other tensors."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from common.codec.buffers import whole
from common.codec.context import Context, Place, Slot
from common.codec.positions import bitmap_bytes, pack_positions, unpack_positions
from common.codec.sparsify import TopK
from common.codec.values import Params, ValueStage

_ALIGNMENT = 8  # of what lies behind the positions: numbers are read where they are


class Coded(NamedTuple):
    """One tensor, coded."""

    params: Params
    content: Tensor
    """Flat uint8."""
    sent: Tensor | None = None
    """What the receiver decodes, where that is known already."""


class Coder(Protocol):
    """Codes flat floating-point tensors, with or without a memory of what was coded before."""

    def encode(self, slot: Slot, values: Tensor, at: Context, key: tuple[int, ...]) -> Coded:
        """Code the elements of one tensor.

        Raises:
            ValueError: NaN or infinite values, where they cannot be carried.
        """

    def nbytes(self, slot: Slot, params: Params, at: Context) -> int:
        """Bytes of the content that these parameters announce; nothing has been allocated for it.

        Raises:
            ValueError: parameters that no encoder makes.
        """

    def decode(self, slot: Slot, params: Params, content: Tensor, at: Context) -> Tensor:
        """The elements, on the CPU.

        Raises:
            ValueError: content that no encoder makes.
        """

    def state(self) -> dict[str, Tensor]:
        """All that is remembered, for a checkpoint."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""


class Chain:
    """A value stage, and perhaps a sparsity in front of it.

    With sparsity the parameters begin with the number of values and the bytes of their positions; the content with
    the positions, filled up to a multiple of 8 bytes.
    """

    def __init__(self, value: ValueStage, sparsity: TopK | None = None) -> None:
        self._value, self._sparsity = value, sparsity

    def encode(self, slot: Slot, values: Tensor, at: Context, key: tuple[int, ...]) -> Coded:
        """Choose the values that travel, and round them."""
        if self._sparsity is None:
            return Coded(*self._value.encode(values, Place(slot.channels, None, (*key, 0))))
        positions = self._sparsity.positions(values, training=at.training, key=(*key, 1))
        packed = torch.from_numpy(pack_positions(positions, slot.elements))
        where = torch.from_numpy(positions).to(values.device)
        params, content = self._value.encode(values[where], Place(slot.channels, where, (*key, 0)))
        front = torch.zeros(_aligned(len(packed)), dtype=torch.uint8)
        front[: len(packed)] = packed
        return Coded((float(len(positions)), float(len(packed)), *params), torch.cat([front, content.cpu()]))

    def nbytes(self, slot: Slot, params: Params, at: Context) -> int:
        """Positions and values."""
        if self._sparsity is None:
            return self._value.nbytes(slot.elements, params, slot.dtype)
        count, front, rest = self._read(slot, params)
        return _aligned(front) + self._value.nbytes(count, rest, slot.dtype)

    def decode(self, slot: Slot, params: Params, content: Tensor, at: Context) -> Tensor:
        """Values where they belong, and zeros elsewhere."""
        if self._sparsity is None:
            return self._value.decode(content, slot.elements, params, slot.dtype, Place())
        count, front, rest = self._read(slot, params)
        packed = content[:front].numpy()
        where = torch.from_numpy(unpack_positions(packed, count, slot.elements))
        some = self._value.decode(content[_aligned(front) :], count, rest, slot.dtype, Place(positions=where))
        return torch.zeros(slot.elements, dtype=slot.dtype).index_copy_(0, where, some)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing is remembered."""
        if state:
            raise ValueError(f"a codec without memory has no {', '.join(state)}")

    def _read(self, slot: Slot, params: Params) -> tuple[int, int, Params]:
        """Number of values, bytes of their positions, and the value stage's parameters."""
        first, second, *rest = params
        expected = self._sparsity.count(slot.elements) if self._sparsity else slot.elements
        count = whole(first, expected, expected)  # so a tensor is never larger than its bytes allow
        return count, whole(second, 0, bitmap_bytes(slot.elements)), tuple(rest)


def _aligned(nbytes: int) -> int:
    return nbytes + -nbytes % _ALIGNMENT
