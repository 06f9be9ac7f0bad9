"""``int8``, ``int4``, ``int2``: values on an even grid, one for the whole tensor, or for each channel or block of it.

value = (code - zero) * scale where the range holds 0: 0 is a code of its own, and the zeros behind a ReLU (and in its
gradients) stay exactly 0; a range that starts at 0 uses all codes. Elsewhere value = code * scale + base, where base is
the least value. Two numbers say all of this: scale and zero, or scale with its sign bit set and base.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.codec.bits import pack_bits, packed_bytes, padded, unpack_bits
from common.codec.buffers import as_bytes, whole
from common.codec.channels import WHOLE, Blocks, Channels, Dense, Groups, Sparse, blocks, portion
from common.codec.context import Place
from common.codec.grammar import Sharing
from common.codec.noise import fraction, rounding_noise
from common.codec.values import Params

_MAX_INNER = 1 << 40


@dataclass(frozen=True)
class _Grid:
    """A grid for each channel, in the dtype that is computed in; ``base`` is 0 where ``zero`` is not."""

    scale: Tensor
    zero: Tensor
    base: Tensor

    @staticmethod
    def over(low: Tensor, high: Tensor, levels: int) -> "_Grid":
        """The grid from least to largest value."""
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise ValueError("NaN or infinite values")
        scale = high / levels - low / levels
        # Constant, or narrower than the arithmetic can tell apart.
        flat = scale < 1 / torch.finfo(scale.dtype).max
        holds_zero = (low <= 0) & (high >= 0)
        zero = torch.where(holds_zero & ~flat, (-low / scale.where(~flat, 1)).round(), 0)
        return _Grid(scale.where(~flat, 0), zero, low.where(~holds_zero, 0))

    def numbers(self) -> tuple[Tensor, Tensor]:
        """Scale, and zero or base: which one, is in the scale's sign."""
        based = self.base != 0
        return self.scale.where(~based, -self.scale), self.zero.where(~based, self.base)

    @staticmethod
    def read(scale: Tensor, offset: Tensor) -> "_Grid":
        """The grid of two numbers."""
        if not bool((scale.isfinite() & offset.isfinite()).all()):
            raise ValueError("scales that are no numbers")
        based = scale.signbit()
        return _Grid(scale.abs(), offset.where(~based, 0), offset.where(based, 0))


class Affine:
    """A grid of 2**bits values. Error per element <= scale / 2, or < scale with stochastic rounding, plus the rounding
    of the tensor's own dtype; scale is the range over the largest code.

    Args:
        bits: of a code; 8, 4 or 2.
        sharing: what has a grid of its own: the tensor, each channel or each block. The tensor's is told in the
            parameters, the others in front of the codes.
        stochastic: round up or down by chance, so that the mean of the rounded values is the value.
    """

    def __init__(self, bits: int, *, sharing: Sharing = "tensor", stochastic: bool = False) -> None:
        self._bits, self._levels = bits, (1 << bits) - 1
        self._sharing, self._stochastic = sharing, stochastic

    def encode(self, values: Tensor, place: Place) -> tuple[Params, Tensor]:
        """The packed codes, behind the grids where there are several."""
        by_channel = self._sharing == "channel" and place.channels.worth(len(values))
        channels = place.channels if by_channel else WHOLE
        groups = self._groups(channels, len(values), place.positions)
        work = _at_least_single(values.dtype)
        low, high = groups.extremes(values)
        grid = _Grid.over(low.to(work), high.to(work), self._levels)
        packed = pack_bits(self._codes(values, groups, grid, place), self._bits)
        scale, offset = grid.numbers()
        if self._sharing == "tensor":
            return (scale.item(), offset.item()), packed
        told = (float(channels.count), float(channels.inner)) if self._sharing == "channel" else ()
        return told, torch.cat([as_bytes(scale), as_bytes(offset), packed])

    def nbytes(self, count: int, params: Params, dtype: torch.dtype) -> int:
        """Packed codes and, where there are several grids, two numbers each."""
        packed = packed_bytes(count, self._bits)
        if self._sharing == "tensor":
            scale, offset = params
            if not max(abs(scale), abs(offset)) <= torch.finfo(dtype).max:
                raise ValueError(params)
            return packed
        return 2 * self._grids(count, params) * _at_least_single(dtype).itemsize + packed

    def decode(self, content: Tensor, count: int, params: Params, dtype: torch.dtype, place: Place) -> Tensor:
        """(code - zero) * scale + base."""
        work, channels = _at_least_single(dtype), WHOLE
        if self._sharing == "tensor":
            scale, offset = torch.tensor(params, dtype=work).view(2, 1)
        else:
            front = 2 * self._grids(count, params) * work.itemsize
            scale, offset = content[:front].view(work).view(2, -1)
            content = content[front:]
        if self._sharing == "channel":
            channels = Channels(int(params[0]), int(params[1]))
        if place.positions is None and count % (channels.count * channels.inner):
            raise ValueError(f"{count} values are not {channels.count} channels")
        groups = self._groups(channels, count, place.positions)
        return self._values(unpack_bits(content, self._bits), groups, _Grid.read(scale, offset), count, dtype)

    def _grids(self, count: int, params: Params) -> int:
        """Number of grids in front of the codes."""
        if self._sharing == "block":
            if params:
                raise ValueError(params)
            return blocks(count)
        channels, inner = params
        whole(inner, 1, _MAX_INNER)
        return whole(channels, 1, max(count, 1))

    def _groups(self, channels: Channels, count: int, positions: Tensor | None) -> Groups:
        if self._sharing == "block":
            return Blocks(count)
        return Dense(channels, count) if positions is None else Sparse(channels, positions)

    def _codes(self, values: Tensor, groups: Groups, grid: _Grid, place: Place) -> Tensor:
        """Codes, one byte each, and zeros up to a full byte of them."""
        codes = torch.empty(padded(len(values), self._bits), dtype=torch.uint8, device=values.device)
        codes[len(values) :] = 0
        flat = grid.scale == 0
        inverse = torch.where(flat, 0, 1 / grid.scale.where(~flat, 1))
        based, shifted = bool(grid.base.any()), bool(grid.zero.any())
        noise = rounding_noise(place.key, len(values)).to(values.device) if self._stochastic else None
        for part in groups.portions(portion(values)):
            some = part.of(values).to(inverse.dtype)
            some = (some - part.table(grid.base) if based else some) * part.table(inverse)
            if shifted:
                some += part.table(grid.zero)
            if noise is None:
                some.round_()
            else:
                some.add_(fraction(part.of(noise), some.dtype)).floor_()
            part.of(codes).copy_(some.clamp_(0, self._levels))
        return codes

    def _values(self, codes: Tensor, groups: Groups, grid: _Grid, count: int, dtype: torch.dtype) -> Tensor:
        values, largest = torch.empty(count, dtype=dtype), torch.finfo(dtype).max
        based, shifted = bool(grid.base.any()), bool(grid.zero.any())
        # Half a scale beyond the ends of the range may be beyond the ends of the dtype.
        reach = (self._levels + 1 + grid.zero.abs().double()) * grid.scale.double() + grid.base.abs().double()
        near_the_end = bool((reach > largest).any())
        for part in groups.portions(portion(codes)):
            some = part.of(codes).to(grid.scale.dtype)
            if shifted:
                some -= part.table(grid.zero)
            some *= part.table(grid.scale)
            if based:
                some += part.table(grid.base)
            part.of(values).copy_(some.clamp_(-largest, largest) if near_the_end else some)
        return values


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Dtype to compute in: codes up to 255 need more digits than bfloat16 has."""
    return torch.promote_types(dtype, torch.float32)
