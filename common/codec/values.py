"""Value stages: how the numbers of one floating-point tensor become codes, and back."""

from typing import Protocol

import torch
from torch import Tensor


class ValueStage(Protocol):
    """Turns a floating-point tensor into a tensor of codes and a few parameters."""

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """Codes of any dtype, shaped like ``tensor``, and what `decode` needs besides them."""

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """The tensor, as near as the stage keeps it."""

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Dtype of the codes of a tensor of ``dtype``."""


class Plain:
    """``none``: the values themselves."""

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """The tensor itself."""
        return tensor, ()

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """The codes themselves."""
        return codes

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That of the tensor."""
        return dtype


class Half:
    """``fp16``: rounded to half precision, after scaling so that nothing overflows or vanishes.

    The scale is a power of two, so it costs no accuracy: gradients of a batch mean are often below the
    smallest half-precision number (6e-8). Relative error per element <= 2**-11 where the element is within
    2**-29 of the largest.
    """

    _TOP = 2.0**15  # the largest power of two in half precision

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """Half-precision codes, and the scale."""
        low, high = _range(tensor)
        largest = max(-low, high)
        scale = 1.0 if largest == 0 else 2.0 ** (torch.tensor(self._TOP / largest).log2().floor().item())
        scale = min(max(scale, 2.0**-100), 2.0**100)
        return (tensor * scale).half(), (scale,)

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """The codes over the scale."""
        return codes.to(dtype).div_(params[0])

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Half precision."""
        return torch.float16


class Affine:
    """``int8``: code = round(value / scale) + zero, in 0..255, one scale for the whole tensor.

    Where the tensor's range holds 0, 0 is a code of its own, so the zeros behind a ReLU (and in its gradients)
    stay exactly 0; a tensor that starts at 0 uses all 256 codes. Elsewhere the code 0 stands for the least value.
    Error per element <= scale / 2, and <= scale at the two ends of a range that has both signs.
    """

    levels = 255

    def encode(self, tensor: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """Unsigned 8-bit codes; the scale, and the value of code 0."""
        low, high = _range(tensor)
        scale = high / self.levels - low / self.levels
        if scale == 0 or not torch.isfinite(torch.tensor(1 / scale, dtype=torch.float32)):
            # Constant, or narrower than single precision can tell apart.
            return torch.zeros_like(tensor, dtype=torch.uint8), (0.0, low)
        zero = round(-low / scale) if low <= 0 <= high else -low / scale
        codes = tensor.mul(1 / scale).add_(zero).round_().clamp_(0, self.levels).to(torch.uint8)
        return codes, (scale, float(zero))

    def decode(self, codes: Tensor, params: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        """(code - zero) * scale."""
        scale, zero = params
        values = codes.to(dtype)
        return values.fill_(zero) if scale == 0 else values.sub_(zero).mul_(scale)

    def code_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Bytes."""
        return torch.uint8


def _range(tensor: Tensor) -> tuple[float, float]:
    """Least and largest value; 0 and 0 of an empty tensor. NaN where the tensor has one."""
    if not tensor.numel():
        return 0.0, 0.0
    low, high = torch.aminmax(tensor.detach())
    return float(low), float(high)


VALUES: dict[str, type[ValueStage]] = {"none": Plain, "fp16": Half, "int8": Affine}
