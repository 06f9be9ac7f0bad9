"""Value stages that round numbers one by one: how a flat floating-point tensor becomes bytes, and back."""

import math
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from common.codec.buffers import as_bytes
from common.codec.channels import portion
from common.codec.context import Place

Params: TypeAlias = tuple[float, ...]


class ValueStage(Protocol):
    """Turns a flat floating-point tensor into bytes and a few numbers; `docs/codecs.md` has the rules for your own."""

    def encode(self, values: Tensor, place: Place) -> tuple[Params, Tensor]:
        """What `decode` needs besides the bytes, and the bytes: a flat uint8 tensor.

        Args:
            values: (n,), contiguous, of a floating-point dtype, on any device.
            place: their channels and positions, and the key of this tensor's random choices.

        Raises:
            ValueError: NaN or infinite values, where the stage cannot carry them.
        """

    def nbytes(self, count: int, params: Params, dtype: torch.dtype) -> int:
        """Bytes that ``count`` values take; checked before anything is allocated for them.

        Raises:
            ValueError: parameters that no encoder makes.
        """

    def decode(self, content: Tensor, count: int, params: Params, dtype: torch.dtype, place: Place) -> Tensor:
        """The values (``count``,), as near as the stage keeps them, on the CPU.

        Args:
            content: `nbytes` bytes, flat uint8, on the CPU; perhaps the memory of a message.
            count: number of values.
            params: from the peer.
            dtype: of the values.
            place: their positions, where they are not the whole tensor; channels and key are not known here.

        Raises:
            ValueError: parameters or bytes that no encoder makes.
        """


class Plain:
    """``none``: the values themselves."""

    def encode(self, values: Tensor, place: Place) -> tuple[Params, Tensor]:
        """Their memory."""
        return (), as_bytes(values)

    def nbytes(self, count: int, params: Params, dtype: torch.dtype) -> int:
        """As many as in memory."""
        if params:
            raise ValueError(params)
        return count * dtype.itemsize

    def decode(self, content: Tensor, count: int, params: Params, dtype: torch.dtype, place: Place) -> Tensor:
        """The memory as numbers."""
        return content.view(dtype)


class Rounded:
    """``fp16`` and ``bf16``: each number rounded to a shorter one, after scaling so that nothing overflows or vanishes.

    The scale is a power of two, so it costs no accuracy: gradients of a batch mean are often below the
    smallest half-precision number (6e-8). Relative error per element <= 2**-11 (fp16, where the element is within
    2**-28 of the largest) or 2**-8 (bf16).
    """

    def __init__(self, codes: torch.dtype) -> None:
        self._codes = codes

    def encode(self, values: Tensor, place: Place) -> tuple[Params, Tensor]:
        """The short numbers, and the scale."""
        low, high = finite_range(values)
        scale = self._scale(max(-low, high), values.dtype)
        codes = torch.empty(len(values), dtype=self._codes, device=values.device)
        size = portion(values)
        for start in range(0, len(values), size):
            codes[start : start + size] = values[start : start + size] * scale
        return (scale,), as_bytes(codes)

    def nbytes(self, count: int, params: Params, dtype: torch.dtype) -> int:
        """Two each."""
        (scale,) = params
        if math.frexp(scale)[0] != 0.5:
            raise ValueError(f"{scale} is no power of two")
        return count * self._codes.itemsize

    def decode(self, content: Tensor, count: int, params: Params, dtype: torch.dtype, place: Place) -> Tensor:
        """The codes over the scale."""
        (scale,) = params
        values, largest = content.view(self._codes).to(dtype), torch.finfo(dtype).max
        values = (values.clone() if dtype is self._codes else values).div_(scale)
        # A code that was rounded up may be beyond the end of the dtype.
        return values.clamp_(-largest, largest) if 2.0**15 / scale > largest else values

    @staticmethod
    def _scale(largest: float, dtype: torch.dtype) -> float:
        """The power of two that brings ``largest`` below 2**15, which half precision still holds."""
        most = 1000 if dtype is torch.float64 else 126  # above, the scale itself would overflow
        return 2.0 ** min(15 - math.frexp(largest)[1], most) if largest else 1.0


class Shuffled:
    """``+shuffle``: the first bytes of all numbers, then their second ones, and so on; a lossless stage finds more so.

    Numbers of a tensor are of similar size, so their sign and exponent bytes repeat while the lowest ones are noise.
    """

    def __init__(self, stage: ValueStage, width: int) -> None:
        self._stage, self._width = stage, width

    def encode(self, values: Tensor, place: Place) -> tuple[Params, Tensor]:
        """The bytes of the stage, in another order."""
        params, content = self._stage.encode(values, place)
        width = self._width or values.itemsize
        return params, _transposed(content.cpu().view(-1, width))

    def nbytes(self, count: int, params: Params, dtype: torch.dtype) -> int:
        """As many as of the stage."""
        return self._stage.nbytes(count, params, dtype)

    def decode(self, content: Tensor, count: int, params: Params, dtype: torch.dtype, place: Place) -> Tensor:
        """The stage's decoding of the bytes in their own order."""
        width = self._width or dtype.itemsize
        return self._stage.decode(_transposed(content.view(width, -1)), count, params, dtype, place)


def _transposed(content: Tensor) -> Tensor:
    # numpy's copy takes a quarter of the time of torch's.
    return torch.from_numpy(np.ascontiguousarray(content.numpy().T).reshape(-1))


def finite_range(values: Tensor) -> tuple[float, float]:
    """Least and largest value; 0 and 0 of an empty tensor.

    Raises:
        ValueError: NaN or infinite values.
    """
    if not values.numel():
        return 0.0, 0.0
    low, high = torch.stack(torch.aminmax(values)).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("NaN or infinite values")
    return low, high
