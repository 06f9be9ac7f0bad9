"""The codec of a spec: tensors of a message -> what to tell the decoder and one buffer each, and back.

A codec belongs to one direction of one session and is used by one thread on each side. Integer and boolean tensors
and single numbers (tensors without dimensions) always travel as they are; the stages apply to the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.codec.buffers import dtype_name, elements, flattened, from_bytes, named_dtype, to_bytes
from common.codec.chain import Chain, Coder
from common.codec.context import Context, Slot, slot_channels
from common.codec.grammar import Direction, Spec, parse_spec
from common.codec.limit import DEFAULT_MB, MemoryLimit
from common.codec.lossless import Auto, LosslessStage
from common.codec.stages import make_coder, make_lossless
from common.codec.values import Plain
from common.errors import CodecError
from common.wire.framing import Buffer
from common.wire.structs import Payload, TensorSpec

_SLACK = 64  # bytes that scales and positions of a tiny tensor may add
_AS_IT_IS = Chain(Plain())
_DIRECTIONS = {None: 0, "up": 1, "down": 2}


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
    """Encodes tuples of tensors by the stages of a spec.

    Args:
        spec: the stages by name.
        coder: all but the last stage.
        lossless: the last one.
        key: seeds random choices, with step and tensor.
    """

    def __init__(self, spec: Spec, coder: Coder, lossless: LosslessStage, key: tuple[int, ...] = (0, 0)) -> None:
        self.spec = spec
        self._coder, self._lossless, self._key = coder, lossless, key

    @property
    def name(self) -> str:
        """The spec as text."""
        return self.spec.text

    @property
    def is_exact(self) -> bool:
        """Whether decoding gives back the very same tensors."""
        return self.spec.is_exact

    @property
    def link_bps(self) -> float | None:
        """Bits a second of the link, which `auto` decides by; None where nobody has measured them, or needs to."""
        return self._lossless.link_bps if isinstance(self._lossless, Auto) else None

    @link_bps.setter
    def link_bps(self, bits: float | None) -> None:
        if isinstance(self._lossless, Auto):
            self._lossless.link_bps = bits

    def encode(self, tensors: Sequence[Tensor], step: Context | int) -> Encoded:
        """Encode the tensors of a message; buffers may refer to their memory.

        Args:
            tensors: the storages that carry the live tensors.
            step: the message they are for, or the number of a training step of unknown samples.

        Raises:
            CodecError: a tensor with NaN or infinite values, which a lossy stage cannot carry, or memory beyond its
                limit; it names the step.
        """
        return self._encode(tensors, Context.of(step), decode=False)[0]

    def encode_and_decode(self, tensors: Sequence[Tensor], step: Context | int) -> tuple[Encoded, tuple[Tensor, ...]]:
        """As `encode`, and what the receiver will have, on the CPU."""
        return self._encode(tensors, Context.of(step), decode=True)

    def decode(self, encoded: Encoded, step: Context | int = 0) -> tuple[Tensor, ...]:
        """The tensors, on the CPU; they may share the memory of the buffers.

        Args:
            encoded: what the peer's codec of the same spec made.
            step: the same message as at the peer; its views do not matter.

        Raises:
            CodecError: another codec, or buffers that do not hold what the spec announces.
        """
        spec, at = encoded.spec, Context.of(step)
        if spec.codec != self.name:
            raise CodecError(f"the peer encoded with {spec.codec!r}; {self.name!r} was agreed")
        if len(spec.tensors) != len(encoded.buffers):
            raise CodecError(f"{len(spec.tensors)} tensors announced, {len(encoded.buffers)} buffers came")
        pairs = zip(spec.tensors, encoded.buffers, strict=True)
        return tuple(self._decode_one(tensor, buffer, i, at) for i, (tensor, buffer) in enumerate(pairs))

    def state(self) -> dict[str, Tensor]:
        """All that this codec remembers, for a checkpoint; empty of a codec without memory."""
        return self._coder.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._coder.load_state(state)

    def _encode(self, tensors: Sequence[Tensor], at: Context, *, decode: bool) -> tuple[Encoded, tuple[Tensor, ...]]:
        specs: list[TensorSpec] = []
        buffers: list[Buffer] = []
        decoded: list[Tensor] = []
        for i, tensor in enumerate(tensors):
            shape = tuple(tensor.shape)
            slot = Slot(i, shape, tensor.dtype, tensor.numel(), slot_channels(shape, i, at.views))
            name, coder = dtype_name(slot.dtype), self._coder_of(slot)
            try:
                coded = coder.encode(slot, flattened(tensor), at, (*self._key, at.step, int(at.training), i))
            except ValueError:
                raise CodecError(
                    f"step {at.step}: tensor {i} has NaN or infinite values, which {self.name!r} cannot carry; "
                    "training has diverged (a smaller --lr helps), or use --compress none to look at it"
                ) from None
            specs.append(TensorSpec(name, shape, coded.params))
            content = coded.content.cpu()
            if len(content) > tensor.nbytes + _SLACK:  # a codec of one's own; the peer would refuse the message
                raise CodecError(
                    f"step {at.step}: {self.name!r} makes {len(content)} bytes of tensor {i}, which has "
                    f"{tensor.nbytes}; a codec must not add"
                )
            buffers.append(self._lossless.compress(to_bytes(content)))
            if decode:
                sent = coder.decode(slot, coded.params, content, at) if coded.sent is None else coded.sent
                decoded.append(sent.view(shape))
        return Encoded(Payload(self.name, tuple(specs)), tuple(buffers)), tuple(decoded)

    def _decode_one(self, spec: TensorSpec, buffer: Buffer, index: int, at: Context) -> Tensor:
        dtype = named_dtype(spec.dtype)
        slot = Slot(index, spec.shape, dtype, elements(spec.shape))
        coder = self._coder_of(slot)
        try:
            nbytes = coder.nbytes(slot, spec.params, at)
            content = from_bytes(self._lossless.decompress(buffer, nbytes), torch.uint8, (nbytes,))
            values = coder.decode(slot, spec.params, content, at)
        except ValueError as error:
            raise CodecError(
                f"step {at.step}: tensor {index} cannot be decoded with parameters {spec.params[:8]} by {self.name!r}: "
                f"{error}"
            ) from None
        return (values.view(torch.uint8).ne(0) if dtype is torch.bool else values).view(spec.shape)

    def _coder_of(self, slot: Slot) -> Coder:
        return self._coder if slot.dtype.is_floating_point and slot.shape else _AS_IT_IS


def make_codec(
    spec: str,
    direction: Direction | None = None,
    *,
    seed: int = 0,
    memory_mb: int = DEFAULT_MB,
    samples: int = 0,
) -> Codec:
    """The codec of a spec such as ``none``, ``fp16``, ``delta+int4/c+zstd``.

    Args:
        spec: see `common.codec.grammar`; from a user or from a peer, it loads nothing.
        direction: what it is for; None allows what either direction does.
        seed: of the run.
        memory_mb: limit of the memory of `ef` and `delta`, in MiB.
        samples: of the data set, as far as known.

    Raises:
        UsageError: a spec that names no codec, or one that would do no good; it says what would.
    """
    parsed = parse_spec(spec, direction)
    coder = make_coder(parsed, MemoryLimit(memory_mb << 20), samples)
    return Codec(parsed, coder, make_lossless(parsed), (seed, _DIRECTIONS[direction]))
