"""The head at the cloud: it makes activations of the inputs that an edge sends, and applies the gradients that follow.

It acts on what comes, in the order in which it comes: that is the edge's schedule. All of a head's care (feature
replay, random numbers, statistics of batch norms) is `Head`'s.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import msgspec
import torch
from torch import Tensor, nn

from common.codec import Codec
from common.codec.buffers import dtype_name, from_bytes, named_dtype
from common.errors import ProtocolError
from common.training.checkpoint import PendingStep
from common.training.delay import FARTHEST
from common.training.digest import parameter_digests
from common.training.exchange import NOT_TIMED, Answer, Asked, Outgoing, Returned, Upload
from common.training.head import Head
from common.training.kept import Parts
from common.training.optimizers import Updater
from common.training.pending import Pending
from common.training.session import StepOrder
from common.wire.framing import Frame, pack
from common.wire.messages import Activations, Applied, Gradients, Inputs
from common.wire.structs import TailTimes, TensorSpec
from common.wire.tcp import Received

_NO_LABELS = torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class InputForm:
    """What a batch's inputs must be."""

    shape: tuple[int, ...]
    """Of one sample."""
    dtype: torch.dtype
    batch_size: int


class CloudHead:
    """A head that is asked from afar. It touches no socket, thread or clock; threads as `Tail`.

    Args:
        head: of the job.
        form: of its inputs.
        stale_it: staleness bound K; more batches are not held.
    """

    def __init__(self, head: Head, form: InputForm, *, stale_it: int) -> None:
        self.head = head
        self._form, self._stale_it = form, stale_it
        self.order = StepOrder()

    @property
    def part(self) -> nn.Module:
        """From the inputs to the activations."""
        return self.head.part

    @property
    def updater(self) -> Updater:
        """Of the part."""
        return self.head.updater

    @property
    def codec_up(self) -> Codec:
        """Decodes gradients."""
        return self.head.codec_down

    @property
    def codec_down(self) -> Codec:
        """Encodes activations."""
        return self.head.codec_up

    @property
    def under_way(self) -> dict[int, Pending]:
        """Steps whose gradients have not been applied."""
        return self.head.under_way

    def load_under_way(self, tensors: Mapping[str, Tensor], pending: Sequence[PendingStep]) -> None:
        """Go on from a checkpoint."""
        self.head.load_under_way(tensors, pending)

    def decode(self, frame: Frame) -> Asked | Answer:
        """What a frame asks for, or the gradients in it.

        Raises:
            ProtocolError: another message, one out of order, or tensors that are not those of this job.
        """
        message = frame.message
        if isinstance(message, Gradients):
            if not 0 <= message.rate <= 1:
                raise ProtocolError(f"a learning rate times {message.rate} is asked for; the factor is from 0 to 1")
            return self.head.decode(frame)
        if not isinstance(message, Inputs):
            raise ProtocolError(f"the peer sent {type(message).__name__} where inputs or gradients were due")
        self.order.activations(message)
        return self._read(message, frame.buffers)

    def forward(self, asked: Asked) -> Upload:
        """The activations of a batch.

        Raises:
            ProtocolError: more batches are under way than were agreed, or inputs that the model does not know.
        """
        if asked.training and len(self.under_way) > self._stale_it:
            raise ProtocolError(f"step {asked.step} came with {len(self.under_way)} under way; K is {self._stale_it}")
        what = (asked.step, asked.epoch, asked.inputs, _NO_LABELS, asked.ids)
        return self.head.forward(*what, training=asked.training, ahead=asked.ahead)

    def backward(self, answer: Answer) -> None:
        """Apply a step's gradients."""
        self.updater.factor = answer.rate
        self.head.backward(answer)

    def encode(self, upload: Upload) -> Outgoing:
        """The message of activations."""
        return self.head.encode(upload)

    def _read(self, message: Inputs, buffers: Sequence[memoryview]) -> Asked:
        count = message.ids.shape[0] if len(message.ids.shape) == 1 else -1
        form = self._form
        if not 0 <= message.ahead <= FARTHEST * self._stale_it:
            raise ProtocolError(f"weights of {message.ahead:g} steps on are asked for; K is {self._stale_it}")
        if not 0 < count <= form.batch_size:
            raise ProtocolError(f"ids of shape {message.ids.shape}; batches have 1 to {form.batch_size} samples")
        expected = TensorSpec(dtype_name(form.dtype), (count, *form.shape))
        if message.tensors != (expected,):
            came = ", ".join(f"{each.dtype} of shape {each.shape}" for each in message.tensors[:9]) or "nothing"
            raise ProtocolError(f"inputs came as {came}; {count} samples are {expected.dtype} of {expected.shape}")
        ids = named_dtype(message.ids.dtype)
        if ids.is_floating_point or len(buffers) != 2 or len(buffers[0]) != prod(expected.shape) * form.dtype.itemsize:
            raise ProtocolError(
                f"inputs of {count} samples came with {len(buffers)} buffers, or ids that are no numbers"
            )
        inputs = from_bytes(buffers[0], form.dtype, expected.shape)
        numbers = from_bytes(buffers[1], ids, message.ids.shape).long()
        return Asked(message.step, message.epoch, message.training, (inputs,), numbers, message.ahead)


class TimedCloudHead:
    """Carries a step through a `CloudHead` and notes when it worked; the notes travel with the activations.

    What a step's gradients took (to come, and to be applied) is noted with the next training step's activations: these
    are already there when it is known.
    """

    def __init__(self, head: CloudHead, timer: Callable[[], Callable[[], float]]) -> None:
        self._head = head
        self._timer = timer
        self._behind = NOT_TIMED

    def decode(self, received: Received) -> Asked | Answer:
        """What a frame is about, with the time its bytes took to come."""
        start, stop = self._now()
        item = self._head.decode(received.frame)
        receive = (received.started_s, received.seconds)
        times = TailTimes(receive=receive, decode=(start, stop()), timed_bytes=received.timed_bytes)
        return replace(item, times=times)

    def act(self, item: Asked | Answer) -> Upload | Answer:
        """The activations of inputs; of gradients, the same once they are applied."""
        start, stop = self._now()
        if isinstance(item, Answer):
            self._head.backward(item)
            self._behind = _added(msgspec.structs.replace(item.times, compute=(start, stop())), self._behind)
            return item
        upload = self._head.forward(item)
        times = msgspec.structs.replace(item.times, compute=(start, stop()))
        if item.training:
            times, self._behind = _added(self._behind, times), NOT_TIMED
        return replace(upload, times=times)

    def turn(self, returned: Returned) -> Answer:
        """Outputs never left the edge."""
        raise ProtocolError(f"gradients of the outputs of step {returned.step} came, which were not sent")

    def encode(self, item: Upload | Answer) -> Parts:
        """The frame of activations, or that gradients were applied."""
        if isinstance(item, Answer):
            return pack(Applied(item.step))
        start, stop = self._now()
        outgoing = self._head.encode(item)
        times = msgspec.structs.replace(item.times, encode=(start, stop()))
        message = outgoing.message
        if isinstance(message, Activations):
            message = msgspec.structs.replace(message, times=times)
        return pack(message, outgoing.buffers)

    def digests(self) -> dict[str, str]:
        """Digest of each of the head's parameters and buffers."""
        return parameter_digests(self._head.part)

    def _now(self) -> tuple[float, Callable[[], float]]:
        return time.perf_counter(), self._timer()


def _added(more: TailTimes, to: TailTimes) -> TailTimes:
    """Busy seconds and bytes of one added to those of another, which keeps its starts."""
    return TailTimes(
        receive=(to.receive[0], to.receive[1] + more.receive[1]),
        decode=(to.decode[0], to.decode[1] + more.decode[1]),
        compute=(to.compute[0], to.compute[1] + more.compute[1]),
        encode=to.encode,
        timed_bytes=to.timed_bytes + more.timed_bytes,
    )
