"""What head and tail exchange, as tensors: before it is encoded and after it is decoded."""

from dataclasses import dataclass

from torch import Tensor

from common.wire.framing import Buffer
from common.wire.messages import Message, TailTimes

NOT_TIMED = TailTimes()


@dataclass(frozen=True)
class Upload:
    """One step's activations, on their way from head to tail."""

    step: int
    epoch: int
    training: bool
    tensors: tuple[Tensor, ...]
    labels: Tensor
    """(B,) integer classes."""
    ids: Tensor
    """(B,) indices of the samples in the data set."""
    gradients_wanted: tuple[bool, ...]
    random_state: Tensor | None = None
    times: TailTimes = NOT_TIMED
    """On the tail's side: when it was received and decoded."""


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
    """Of the tensors whose gradient was wanted, in order; none in evaluation."""
    times: TailTimes = NOT_TIMED


@dataclass(frozen=True)
class Outgoing:
    """A message with the buffers of its body."""

    message: Message
    buffers: tuple[Buffer, ...] = ()
