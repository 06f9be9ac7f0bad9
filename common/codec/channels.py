"""Which elements of a tensor share a scale: its channels, in whatever order its memory is, or blocks of neighbours.

A channel is a place along dimension 1 of a tensor of four or more dimensions (B, C, H, W), and along the last one of
(B, T, D) and (B, D). In dense memory element i belongs to channel (i // inner) % count, where inner is the channel
dimension's stride: that describes (B, C, H, W) and its channels-last form alike, and needs no dimensions.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from common.wire.structs import View

_PORTION = 1 << 17  # half a megabyte of float32 stays in a core's cache
BLOCK = 256
"""Elements of a block; a tensor's last one may have fewer."""
_LEAST = 16  # elements of a channel: with fewer, scales would take more room than they save


@dataclass(frozen=True)
class Channels:
    """Element i of a flat tensor is of channel (i // ``inner``) % ``count``; one channel is the whole tensor."""

    count: int = 1
    inner: int = 1

    def fit(self, elements: int) -> bool:
        """Whether a tensor of so many elements consists of these channels, each worth its scale."""
        return elements % (self.count * self.inner) == 0 and self.worth(elements)

    def worth(self, values: int) -> bool:
        """Whether so many values of these channels are worth a scale each."""
        return values >= _LEAST * self.count


WHOLE = Channels()


def channels_of(shape: Sequence[int], views: Sequence[View] = ()) -> Channels:
    """The channels of a storage.

    Args:
        shape: of the storage.
        views: the tensors that lie in it, where these are not the storage itself.
    """
    elements = math.prod(shape)
    found = {_by_stride(view) for view in views} or {_by_shape(shape)}
    channels = found.pop()
    return channels if not found and elements and channels.fit(elements) else WHOLE


def _axis(dimensions: int) -> int:
    return 1 if dimensions > 3 else dimensions - 1


def _by_shape(shape: Sequence[int]) -> Channels:
    axis = _axis(len(shape))
    return Channels(shape[axis], math.prod(shape[axis + 1 :])) if len(shape) > 1 and 0 not in shape else WHOLE


def _by_stride(view: View) -> Channels:
    if len(view.size) < 2 or 0 in view.size:
        return WHOLE
    axis = _axis(len(view.size))
    if not view.stride[axis]:
        return WHOLE  # expanded: one channel many times
    # What lies between two neighbours; the stride itself, unless gaps were closed on the way.
    below = (n for n, s in zip(view.size, view.stride, strict=True) if 0 < s < view.stride[axis])
    return Channels(view.size[axis], math.prod(below))


def portion(values: Tensor) -> int:
    """Elements to convert at a time: on a CPU what stays in a core's cache, elsewhere all."""
    return _PORTION if values.device.type == "cpu" else max(1, values.numel())


class Portion(NamedTuple):
    """Elements that are converted together."""

    where: slice
    shape: tuple[int, ...]
    """To view them in, so that a channel's number goes with all of its elements."""
    which: slice | Tensor
    """Channels of these elements."""

    def of(self, flat: Tensor) -> Tensor:
        """Its elements of a flat tensor, as a view."""
        return flat[self.where].view(self.shape)

    def table(self, each: Tensor) -> Tensor:
        """One number for each channel, such that it goes with the elements."""
        some = each[self.which]
        return some.view(-1, 1) if isinstance(self.which, slice) else some


class Groups(Protocol):
    """The values of a flat tensor by channels, or whatever else shares a scale."""

    def extremes(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest value of each; 0 and 0 of one without values."""

    def portions(self, size: int) -> Iterator[Portion]:
        """All values, some ``size`` of them at a time."""


class Dense:
    """All elements of a tensor."""

    def __init__(self, channels: Channels, elements: int) -> None:
        self._count, self._inner, self._elements = channels.count, channels.inner, elements

    def extremes(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """By reductions over (outer, channel, inner)."""
        if not self._elements:
            return flat.new_zeros(self._count), flat.new_zeros(self._count)
        if self._count == 1:
            low, high = torch.aminmax(flat)
            return low.view(1), high.view(1)
        values = flat.view(-1, self._count, self._inner)
        return values.amin((0, 2)), values.amax((0, 2))

    def portions(self, size: int) -> Iterator[Portion]:
        """Some repetitions of all channels, or where one is too large, some channels of it."""
        row = self._count * self._inner
        if row <= size:
            step = size // row * row
            for start in range(0, self._elements, step):
                stop = min(start + step, self._elements)
                yield Portion(slice(start, stop), ((stop - start) // row, self._count, self._inner), slice(None))
            return
        step = max(1, size // self._inner)
        for first in range(0, self._elements, row):
            for channel in range(0, self._count, step):
                some = min(step, self._count - channel)
                start = first + channel * self._inner
                where = slice(start, start + some * self._inner)
                yield Portion(where, (1, some, self._inner), slice(channel, channel + some))


class Sparse:
    """Some elements of a tensor, at given positions."""

    def __init__(self, channels: Channels, positions: Tensor) -> None:
        self._count = channels.count
        self._which = positions.div(channels.inner, rounding_mode="floor").remainder_(channels.count)

    def extremes(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """By scattering into the channels."""
        low = flat.new_zeros(self._count).scatter_reduce(0, self._which, flat, "amin", include_self=False)
        high = flat.new_zeros(self._count).scatter_reduce(0, self._which, flat, "amax", include_self=False)
        return low, high

    def portions(self, size: int) -> Iterator[Portion]:
        """As they come."""
        for start in range(0, len(self._which), size):
            which = self._which[start : start + size]
            yield Portion(slice(start, start + len(which)), (len(which),), which)


def blocks(values: int) -> int:
    """Number of blocks of so many values."""
    return -(-values // BLOCK)


class Blocks:
    """`BLOCK` neighbours each, and the rest of them; of a sparse tensor, neighbours among those that travel."""

    def __init__(self, values: int) -> None:
        self._values = values

    def extremes(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """By reductions over (block, place in it)."""
        low, high = flat.new_zeros(blocks(self._values)), flat.new_zeros(blocks(self._values))
        for part in self.portions(portion(flat)):
            some = part.of(flat)
            low[part.which], high[part.which] = some.amin(1), some.amax(1)
        return low, high

    def portions(self, size: int) -> Iterator[Portion]:
        """Some blocks, and the rest behind them."""
        step = max(1, size // BLOCK)
        full = self._values // BLOCK
        for first in range(0, full, step):
            stop = min(first + step, full)
            yield Portion(slice(first * BLOCK, stop * BLOCK), (stop - first, BLOCK), slice(first, stop))
        if self._values % BLOCK:
            yield Portion(slice(full * BLOCK, self._values), (1, self._values % BLOCK), slice(full, full + 1))
