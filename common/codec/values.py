"""Value stages: how the numbers of one floating-point tensor become codes, and back."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

_BLOCK = 1 << 17  # elements converted at a time: half a megabyte of float32 stays in a core's cache


class ValueStage(Protocol):
    """Turns a floating-point tensor into a tensor of codes and a few parameters."""

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """Codes of any dtype, shaped like ``tensor``, and what `decode` needs besides them.

        Raises:
            ValueError: NaN or infinite values, where the stage cannot carry them.
        """

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """The tensor, as near as the stage keeps it.

        Raises:
            ValueError: parameters that no encoder makes.
        """

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Dtype of the codes of a tensor of ``dtype``."""


class Plain:
    """``none``: the values themselves."""

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """The tensor itself."""
        return tensor, ()

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """The codes themselves."""
        if params:
            raise ValueError(params)
        return codes

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the tensor."""
        return dtype


class Half:
    """``fp16``: rounded to half precision, after scaling so that nothing overflows or vanishes.

    The scale is a power of two, so it costs no accuracy: gradients of a batch mean are often below the
    smallest half-precision number (6e-8). Relative error per element <= 2**-11 where the element is within
    2**-28 of the largest.
    """

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """Half-precision codes, and the scale."""
        low, high = _range(tensor)
        scale = self._scale(max(-low, high), tensor.dtype)
        return _by_blocks(tensor, torch.float16, lambda block: block * scale), (scale,)

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """The codes over the scale."""
        (scale,) = params
        if math.frexp(scale)[0] != 0.5:
            raise ValueError(f"{scale} is no power of two")
        values, largest = codes.to(dtype).div_(scale), torch.finfo(dtype).max
        # A code that was rounded up may be beyond the end of the dtype.
        return values.clamp_(-largest, largest) if 2.0**15 / scale > largest else values

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Half precision."""
        return torch.float16

    @staticmethod
    def _scale(largest: float, dtype: torch.dtype) -> float:
        """The power of two that brings ``largest`` below 2**15, which half precision still holds."""
        most = 1000 if dtype is torch.float64 else 126  # above, the scale itself would overflow
        return 2.0 ** min(15 - math.frexp(largest)[1], most) if largest else 1.0


class Affine:
    """``int8``: code = round((value - base) / scale) + zero, in 0..255, one scale for the whole tensor.

    Where the tensor's range holds 0, 0 is a code of its own and base is 0, so the zeros behind a ReLU (and in its
    gradients) stay exactly 0; a tensor that starts at 0 uses all 256 codes. Elsewhere base is the least value, and
    zero is 0. Error per element <= scale / 2, plus the rounding of the tensor's own dtype.
    """

    levels = 255

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """Unsigned 8-bit codes; scale, zero and base."""
        low, high = _range(tensor)
        base = 0.0 if low <= 0 <= high else low
        scale = high / self.levels - low / self.levels
        work = _at_least_single(tensor.dtype)
        if scale < 1 / torch.finfo(work).max:
            # Constant, or narrower than the arithmetic can tell apart.
            return torch.zeros_like(tensor, dtype=torch.uint8), (0.0, 0.0, base)
        zero = 0.0 if base else float(round(-low / scale))

        def quantised(block: Tensor) -> Tensor:
            values = block.to(work)
            shifted = values - base if base else values
            return shifted.mul(1 / scale).add_(zero).round_().clamp_(0, self.levels)

        return _by_blocks(tensor, torch.uint8, quantised), (scale, zero, base)

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """(code - zero) * scale + base."""
        scale, zero, base = params
        work, largest = _at_least_single(dtype), torch.finfo(dtype).max
        if not all(abs(each) <= largest for each in params):
            raise ValueError(params)
        # Half a scale beyond the ends of the range may be beyond the ends of the dtype.
        near_the_end = 256 * scale + abs(base) > largest
        values = codes.to(work).sub_(zero).mul_(scale)
        if base:
            values.add_(base)
        if near_the_end:
            values.clamp_(-largest, largest)
        return values.to(dtype)

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Bytes."""
        return torch.uint8


def _range(tensor: Tensor) -> tuple[float, float]:
    """Least and largest value; 0 and 0 of an empty tensor."""
    if not tensor.numel():
        return 0.0, 0.0
    low, high = torch.stack(torch.aminmax(tensor)).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("NaN or infinite values")
    return low, high


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Dtype to compute in: codes up to 255 need more digits than bfloat16 has."""
    return torch.promote_types(dtype, torch.float32)


def _by_blocks(source: Tensor, dtype: torch.dtype, convert: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an elementwise function; on a CPU in blocks, so that what lies in between never leaves the cache."""
    if source.device.type != "cpu" or not source.is_contiguous():
        return convert(source).to(dtype)
    result = torch.empty(source.shape, dtype=dtype)
    values, converted = source.view(-1), result.view(-1)
    for start in range(0, source.numel(), _BLOCK):
        converted[start : start + _BLOCK] = convert(values[start : start + _BLOCK])
    return result


VALUES: dict[str, type[ValueStage]] = {"none": Plain, "fp16": Half, "int8": Affine}
