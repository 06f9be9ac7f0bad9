"""What head and tail exchange, as tensors: before it is encoded and after it is decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor

from common.codec import make_codec
from common.codec.buffers import dtype_name
from common.partition.layout import check
from common.wire.framing import Buffer
from common.wire.messages import Message
from common.wire.structs import Payload, TailTimes, TensorSpec, View

NOT_TIMED = TailTimes()
AS_IT_IS = make_codec("none")
"""Of tensors that no codec is for."""


Objective: TypeAlias = Callable[[Any, Tensor], tuple[Tensor, int]]
"""(outputs, labels) -> (mean loss of the batch, number of right answers)."""


@dataclass(frozen=True)
class Upload:
    """One step's activations, on their way from head to tail."""

    step: int
    epoch: int
    training: bool
    tensors: tuple[Tensor, ...]
    """The live tensors. Those that share memory at the head share it at the tail."""
    labels: Tensor
    """(B,) integer classes, or (B, ...) whatever else the loss compares with; (0,) where the edge keeps them."""
    ids: Tensor
    """(B,) indices of the samples in the data set."""
    gradients_wanted: tuple[bool, ...]
    random_state: Tensor | None = None
    recalled: bool = False
    """Whether no tensors cross, because the cloud keeps them; see `common.training.activation_cache`."""
    times: TailTimes = NOT_TIMED
    """On the tail's side: when it was received and decoded."""


@dataclass(frozen=True)
class Asked:
    """One step's inputs, on their way to a head at the cloud."""

    step: int
    epoch: int
    training: bool
    inputs: tuple[Tensor, ...]
    ids: Tensor
    """(B,) indices of the samples in the data set."""
    ahead: float = 0.0
    """How many steps on the weights to compute with are expected."""
    times: TailTimes = NOT_TIMED
    """On the cloud's side: when it was received and decoded."""


@dataclass(frozen=True)
class Answer:
    """The tail's answer to an upload."""

    step: int
    training: bool
    loss: float
    """Mean over the samples."""
    correct: int
    count: int
    gradients: tuple[Tensor, ...]
    """Of the tensors whose gradient was wanted, in order, with the strides that they flow with; none in evaluation."""
    times: TailTimes = NOT_TIMED
    rate: float = 1.0
    """Factor of the learning rate, where it is told with the gradients."""


@dataclass(frozen=True)
class Forwarded:
    """What the tail makes of an upload whose labels stay at the edge."""

    step: int
    training: bool
    outputs: Tensor
    times: TailTimes = NOT_TIMED


@dataclass(frozen=True)
class Returned:
    """The loss's gradients of what was forwarded."""

    step: int
    loss: float
    correct: int
    gradients: Tensor


@dataclass(frozen=True)
class Outgoing:
    """A message with the buffers of its body."""

    message: Message
    buffers: tuple[Buffer, ...] = ()


def announced(payload: Payload, views: Sequence[View]) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor that a message announces, before anything is decoded.

    Raises:
        ProtocolError: views that do not fit the payload.
    """
    check(views, [prod(max(size, 0) for size in spec.shape) for spec in payload.tensors])
    if not views:
        return [(spec.shape, spec.dtype) for spec in payload.tensors]
    return [(view.size, payload.tensors[view.storage].dtype) for view in views]


def narrowed(values: Tensor) -> Tensor:
    """The same whole numbers in the smallest dtype that holds them."""
    largest = int(values.max()) if values.numel() else 0
    if values.numel() and int(values.min()) < 0:
        return values
    fits = (dtype for dtype in (torch.uint8, torch.int16, torch.int32) if largest <= torch.iinfo(dtype).max)
    return values.to(next(fits, torch.int64))


def spec_of(values: Tensor) -> TensorSpec:
    """Dtype and shape for a message."""
    return TensorSpec(dtype_name(values.dtype), tuple(values.shape))
