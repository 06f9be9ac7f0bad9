"""Tensors <-> the bytes that they are, with every size checked before anything is allocated."""

import math

import numpy as np
import torch
from torch import Tensor

from common.errors import CodecError
from common.wire.framing import ALIGNMENT, Buffer

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 1 << 40
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype on the wire."""
    if dtype not in _NAMES:
        raise CodecError(f"tensors of {dtype} cannot cross; known are {', '.join(DTYPES)}")
    return _NAMES[dtype]


def named_dtype(name: str) -> torch.dtype:
    """The dtype of a name that came over the wire."""
    if name not in DTYPES:
        raise CodecError(f"the peer announces a tensor of unknown dtype {name!r}")
    return DTYPES[name]


def flattened(tensor: Tensor) -> Tensor:
    """The elements in row-major order, one behind the other; the tensor's own memory where it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    # One element or none counts as contiguous with any stride; its bytes are looked at without.
    return flat.as_strided(flat.shape, (1,))


def as_bytes(tensor: Tensor) -> Tensor:
    """The memory of a tensor as a flat tensor of uint8, on its device."""
    return flattened(tensor).view(torch.uint8)


def to_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; its own memory where it is contiguous and on the CPU."""
    return as_bytes(tensor).cpu().numpy().data


def from_bytes(data: Buffer, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor over ``data``, without copying where the memory may be written to and begins as torch's own does."""
    if elements(shape) * dtype.itemsize != len(data):
        raise CodecError(f"{len(data)} bytes do not hold a tensor of shape {list(shape)} and {dtype}")
    if not len(data):
        return torch.empty(shape, dtype=dtype)
    if memoryview(data).readonly:
        flat = torch.empty(len(data), dtype=torch.uint8)
        flat.numpy()[:] = np.frombuffer(data, np.uint8)
    else:
        flat = torch.frombuffer(data, dtype=torch.uint8)
        flat = flat.clone() if flat.data_ptr() % ALIGNMENT else flat  # kernels round by where memory begins
    # A byte other than 0 and 1 is no bool; torch's kernels rely on that.
    return (flat.ne(0) if dtype is torch.bool else flat.view(dtype)).reshape(shape)


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor that the peer announces.

    Raises:
        CodecError: no tensor can have this shape.
    """
    # Empty tensors of absurd shapes count as well: torch cannot make them either.
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0 or math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise CodecError(f"the peer announces a tensor of shape {list(shape[: _MAX_DIMENSIONS + 1])}")
    return math.prod(shape)


def whole(number: float, least: int, most: int) -> int:
    """A parameter from the peer that counts something.

    Raises:
        ValueError: it is no whole number, or none of these.
    """
    if not (float(number).is_integer() and least <= number <= most):
        raise ValueError(f"{number} is no whole number from {least} to {most}")
    return int(number)
