"""Activations that the cloud keeps, so that those of a sample cross once: for a head that trains nothing.

What a frozen head makes of a sample is always the same. From its second time on a batch crosses as the numbers of its
samples alone: the edge computes no forward pass for it, and the cloud takes what it decoded the first time. Held-out
samples are numbered and kept apart from those that are trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from common.codec import Codec, Context, Encoded
from common.codec.buffers import dtype_name, elements, named_dtype
from common.codec.grammar import Spec
from common.codec.limit import MemoryLimit
from common.codec.samples import SampleMemory
from common.errors import ProtocolError, UsageError
from common.wire.structs import Payload, Struct, TensorSpec, View

KEPT = "kept"
"""Stands for a codec in the payload of a batch that the cloud has."""
_NEAR = {"rtol": 1e-3, "atol": 1e-5}


class _Form(Struct, frozen=True):
    """How the activations of a batch of so many samples lie in memory."""

    training: bool
    count: int
    tensors: tuple[TensorSpec, ...]
    views: tuple[View, ...]


@dataclass
class _Mode:
    """Training, or evaluation."""

    ids: set[int]
    forms: dict[int, _Form]


class CacheIndex:
    """What the edge knows of the cloud's memory. `knows` may be asked by another thread than encodes."""

    def __init__(self) -> None:
        self._modes = {training: _Mode(set(), {}) for training in (True, False)}

    def knows(self, ids: Tensor, *, training: bool) -> bool:
        """Whether the cloud has all of these samples, and has had a batch of as many."""
        mode = self._modes[training]
        return len(ids) in mode.forms and mode.ids.issuperset(ids.tolist())

    def sent(self, storages: Sequence[Tensor], ids: Tensor, views: tuple[View, ...], *, training: bool) -> None:
        """The storages of a batch are on their way; the cloud keeps them where they consist of samples."""
        if not _of_samples([each.numel() for each in storages], len(ids)):
            return
        mode = self._modes[training]
        specs = tuple(TensorSpec(dtype_name(each.dtype), tuple(each.shape)) for each in storages)
        mode.forms[len(ids)] = _Form(training, len(ids), specs, views)
        mode.ids.update(ids.tolist())

    def recalled(self, count: int, *, training: bool) -> tuple[Encoded, tuple[View, ...]]:
        """What stands for a batch of so many samples that the cloud has: its form, and no bytes."""
        form = self._modes[training].forms[count]
        return Encoded(Payload(KEPT, form.tensors), (b"",) * len(form.tensors)), form.views

    def state(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        forms = msgspec.json.encode([form for mode in self._modes.values() for form in mode.forms.values()])
        ids = {
            f"ids/{int(training)}": torch.tensor(sorted(mode.ids), dtype=torch.int64)
            for training, mode in self._modes.items()
        }
        return {**ids, "forms": torch.frombuffer(bytearray(forms), dtype=torch.uint8)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        for training, mode in self._modes.items():
            mode.ids = set(state[f"ids/{int(training)}"].tolist())
        for form in msgspec.json.decode(state["forms"].numpy().tobytes(), type=list[_Form]):
            self._modes[form.training].forms[form.count] = form


class CachingCodec:
    """The cloud's codec of activations, and its memory of what it has decoded.

    Args:
        codec: of batches that cross.
        limit: bounds the memory.
    """

    def __init__(self, codec: Codec, limit: MemoryLimit) -> None:
        self._codec = codec
        self._memory = SampleMemory(limit)

    @property
    def spec(self) -> Spec:
        """Of the batches that cross."""
        return self._codec.spec

    def decode(self, encoded: Encoded, at: Context) -> tuple[Tensor, ...]:
        """The storages, on the CPU: of the bytes that came, or as they were when their samples came.

        Raises:
            CodecError: see `common.codec.Codec.decode`; or the memory is beyond its limit.
            ProtocolError: samples of which nothing is kept.
        """
        ids = [] if at.ids is None else at.ids.tolist()
        if encoded.spec.codec == KEPT:
            return self._recall(encoded, ids, at.training)
        storages = self._codec.decode(encoded, at)
        if _of_samples([each.numel() for each in storages], len(ids)):
            for i, each in enumerate(storages):
                self._memory.remember(_place(i, at.training), ids, each.reshape(len(ids), -1))
        return storages

    def state(self) -> dict[str, Tensor]:
        """All that is kept, for a checkpoint."""
        return self._memory.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._memory.load_state(state)

    def _recall(self, encoded: Encoded, ids: list[int], training: bool) -> tuple[Tensor, ...]:
        specs = encoded.spec.tensors
        sizes = [elements(spec.shape) for spec in specs]
        if any(map(len, encoded.buffers)) or not _of_samples(sizes, len(ids)):
            raise ProtocolError(f"{len(ids)} samples are said to be kept, in a form that none are kept in")
        storages = []
        for i, (spec, size) in enumerate(zip(specs, sizes, strict=True)):
            place, length, dtype = _place(i, training), size // len(ids), named_dtype(spec.dtype)
            for each in ids:
                if not self._memory.has(place, each, length, dtype):
                    raise ProtocolError(f"the activations of sample {each} are said to be kept, and never came")
            storages.append(self._memory.recall(place, ids, length, dtype).view(spec.shape))
        return tuple(storages)


Run = Callable[[Tensor], tuple[Sequence[Tensor], bool]]
"""A batch -> the storages that carry its activations in training, and whether the pass drew random numbers."""


def require_repeatable(run: Run, example: Tensor) -> None:
    """See that what the head makes of a sample depends on nothing but the sample.

    Args:
        run: the head's forward pass.
        example: three samples.

    Raises:
        UsageError: with the reason.
    """
    (one, drew), (other, drew_again) = run(example[:2]), run(example[[2, 0]])
    if drew or drew_again:
        raise UsageError(
            "--cache_activations: the head draws random numbers in training (dropout that --freeze does not reach), so "
            "its activations are never the same twice; leave it out, or cut before that layer"
        )
    sizes = [each.numel() for each in (*one, *other)]
    alike = _of_samples(sizes, 2) and all(
        torch.allclose(a.reshape(2, -1)[0].double(), b.reshape(2, -1)[1].double(), equal_nan=True, **_NEAR)
        for a, b in zip(one, other, strict=True)
    )
    if not alike:
        raise UsageError(
            "--cache_activations: what the head makes of a sample depends on the other samples of its batch, or does "
            "not lie sample by sample in memory at this cut; leave it out, or cut elsewhere"
        )


def _of_samples(sizes: Sequence[int], count: int) -> bool:
    """Whether tensors of so many elements each may consist of ``count`` samples, one behind the other."""
    return count > 0 and all(size > 0 and size % count == 0 for size in sizes)


def _place(index: int, training: bool) -> int:
    return 2 * index + training
