"""Codec specs: ``VALUE[+LOSSLESS]``, and the codec that one stands for.

A codec belongs to one direction of one session and is used by one thread on each side. Integer and boolean
tensors always travel as they are; the value stage applies to floating-point tensors only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.codec.lossless import LOSSLESS, LosslessStage, Stored
from common.codec.values import VALUES, Plain, ValueStage
from common.errors import CodecError, UsageError
from common.naming import nearest
from common.wire.framing import Buffer
from common.wire.messages import Payload, TensorSpec

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


@dataclass(frozen=True)
class Encoded:
    """Encoded tensors: what to tell the decoder, and one buffer for each tensor."""

    spec: Payload
    buffers: tuple[Buffer, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(len(each) for each in self.buffers)


class Codec:
    """Encodes tuples of tensors by a value stage and then a lossless stage."""

    def __init__(self, name: str, value: ValueStage, lossless: LosslessStage) -> None:
        self.name = name
        self._value = value
        self._lossless = lossless

    @property
    def is_exact(self) -> bool:
        """Whether decoding gives back the very same tensors."""
        return isinstance(self._value, Plain)

    def encode(self, tensors: Sequence[Tensor], step: int) -> Encoded:
        """Encode ``tensors``; buffers may refer to their memory.

        Raises:
            CodecError: a tensor with NaN or infinite values, which a lossy stage cannot carry; it names the step.
        """
        pairs = [self._encode_one(tensor, i, step) for i, tensor in enumerate(tensors)]
        return Encoded(Payload(self.name, tuple(spec for spec, _ in pairs)), tuple(each for _, each in pairs))

    def decode(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """The tensors, on the CPU; they may share the memory of the buffers.

        Raises:
            CodecError: another codec, or buffers that do not hold what the spec announces.
        """
        spec = encoded.spec
        if spec.codec != self.name:
            raise CodecError(f"the peer encoded with {spec.codec!r}; {self.name!r} was agreed")
        if len(spec.tensors) != len(encoded.buffers):
            raise CodecError(f"{len(spec.tensors)} tensors announced, {len(encoded.buffers)} buffers came")
        return tuple(map(self._decode_one, spec.tensors, encoded.buffers))

    def _encode_one(self, tensor: Tensor, index: int, step: int) -> tuple[TensorSpec, Buffer]:
        tensor = tensor.detach()
        dtype = dtype_name(tensor.dtype)
        try:
            codes, params = self._stage(tensor.dtype).encode(tensor)
        except ValueError:
            raise CodecError(
                f"step {step}: tensor {index} has NaN or infinite values, which {self.name!r} cannot carry; "
                "training has diverged (a smaller --lr helps), or use --compress none to look at it"
            ) from None
        return TensorSpec(dtype, tuple(tensor.shape), params), self._lossless.compress(to_bytes(codes))

    def _decode_one(self, spec: TensorSpec, buffer: Buffer) -> Tensor:
        dtype = named_dtype(spec.dtype)
        stage = self._stage(dtype)
        code_dtype = stage.code_dtype(dtype)
        nbytes = _content_bytes(spec.shape, code_dtype)
        codes = from_bytes(self._lossless.decompress(buffer, nbytes), code_dtype, spec.shape)
        try:
            return stage.decode(codes, spec.params, dtype)
        except ValueError:
            raise CodecError(f"{self.name!r} cannot be decoded with parameters {spec.params}") from None

    def _stage(self, dtype: torch.dtype) -> ValueStage:
        return self._value if dtype.is_floating_point else Plain()


def make_codec(spec: str) -> Codec:
    """The codec of a spec such as ``none``, ``fp16``, ``int8+zstd``.

    Raises:
        UsageError: a spec that names no codec; it says what can be named.
    """
    value, *rest = spec.split("+")
    if value not in VALUES:
        raise UsageError(f"codec {spec!r}: unknown value stage {value!r}; {nearest(value, list(VALUES))}")
    if len(rest) > 1:
        raise UsageError(f"codec {spec!r}: one lossless stage at most, of {', '.join(LOSSLESS)}")
    if rest and rest[0] not in LOSSLESS:
        raise UsageError(f"codec {spec!r}: unknown lossless stage {rest[0]!r}; {nearest(rest[0], list(LOSSLESS))}")
    return Codec(spec, VALUES[value](), LOSSLESS[rest[0]]() if rest else Stored())


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


def to_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor; its own memory where it is contiguous and on the CPU."""
    flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def from_bytes(data: Buffer, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor over ``data``, without copying where the memory may be written to."""
    if _content_bytes(shape, dtype) != len(data):
        raise CodecError(f"{len(data)} bytes do not hold a tensor of shape {list(shape)} and {dtype}")
    if not len(data):
        return torch.empty(shape, dtype=dtype)
    writable = data if not memoryview(data).readonly else bytearray(data)
    flat = torch.frombuffer(writable, dtype=torch.uint8)
    # A byte other than 0 and 1 is no bool; torch's kernels rely on that.
    return (flat.ne(0) if dtype is torch.bool else flat.view(dtype)).reshape(shape)


def _content_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor that the peer announces."""
    # Empty tensors of absurd shapes count as well: torch cannot make them either.
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0 or math.prod(max(n, 1) for n in shape) > _MAX_ELEMENTS:
        raise CodecError(f"the peer announces a tensor of shape {list(shape[: _MAX_DIMENSIONS + 1])}")
    return math.prod(shape) * dtype.itemsize
