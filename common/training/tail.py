"""The tail: the part of the model at the loss side, and what it does in a step."""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from common.codec import Codec, Encoded
from common.codec.spec import from_bytes, named_dtype
from common.errors import ProtocolError
from common.training.exchange import Answer, Outgoing, Upload
from common.training.optimizers import Updater
from common.training.randomness import one_at_a_time, step_stream
from common.training.session import StepOrder
from common.wire.framing import Frame
from common.wire.messages import Activations, Gradients, TensorSpec

Objective: TypeAlias = Callable[[Any, Tensor], tuple[Tensor, int]]
"""(outputs, labels) -> (mean loss of the batch, number of right answers)."""


class Tail:
    """Computes the loss of activations, updates its own part at once, and answers with their gradients.

    It touches no socket, thread or clock. `step` belongs to one thread; `decode` and `encode` may each run in
    another.

    Args:
        part: module from the activations to the model's outputs.
        updater: applies gradients to the part's parameters.
        codec_up: decodes activations.
        codec_down: encodes gradients.
        objective: loss and number of right answers.
        shapes: what each activation must look like, without its batch dimension.
        batch_size: the largest batch.
        num_classes: labels must be below.
        seed: of the run.
        device: where the part computes.
    """

    def __init__(
        self,
        part: nn.Module,
        updater: Updater,
        codec_up: Codec,
        codec_down: Codec,
        *,
        objective: Objective,
        shapes: Sequence[tuple[int, ...]],
        batch_size: int,
        num_classes: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.part = part
        self._updater = updater
        self._codec_up, self._codec_down = codec_up, codec_down
        self._objective = objective
        self._shapes = tuple(shapes)
        self._batch_size = batch_size
        self._num_classes = num_classes
        self._seed = seed
        self._device = torch.device(device)
        self._order = StepOrder()

    def decode(self, frame: Frame) -> Upload:
        """The upload in a frame; what it announces is checked before anything is decoded.

        Raises:
            ProtocolError: another message, one out of order, or tensors that do not belong to this cut.
        """
        message = frame.message
        if not isinstance(message, Activations):
            raise ProtocolError(f"the peer sent {type(message).__name__} where activations were due")
        self._order.activations(message)
        count = self._check(message, len(frame.buffers))
        crossing = len(self._shapes)
        tensors = self._codec_up.decode(Encoded(message.payload, frame.buffers[:crossing]))
        sent_labels, ids, *state = frame.buffers[crossing:]
        labels = _whole_numbers(message.labels, sent_labels, count, "labels")
        if not 0 <= int(labels.min()) <= int(labels.max()) < self._num_classes:
            raise ProtocolError(
                f"labels from {int(labels.min())} to {int(labels.max())} came; the job has {self._num_classes} classes"
            )
        return Upload(
            message.step,
            message.epoch,
            message.training,
            tensors,
            labels,
            _whole_numbers(message.ids, ids, count, "ids"),
            message.gradients_wanted,
            from_bytes(state[0], torch.uint8, (len(state[0]),)) if state else None,
        )

    def step(self, upload: Upload) -> Answer:
        """Forward, loss, and in training backward and one optimizer step."""
        if self.part.training != upload.training:
            self.part.train(upload.training)
        labels = upload.labels.to(self._device)
        if not upload.training:
            with torch.no_grad(), one_at_a_time:
                outputs = self.part(*(each.to(self._device) for each in upload.tensors))
                loss, correct = self._objective(outputs, labels)
            return Answer(upload.step, False, loss.item(), correct, len(labels), ())
        leaves = [
            each.to(self._device).requires_grad_(wanted)
            for each, wanted in zip(upload.tensors, upload.gradients_wanted, strict=True)
        ]
        with torch.enable_grad():
            received = [_received(leaf) if leaf.requires_grad else leaf for leaf in leaves]
            with step_stream(self._seed, upload.step, self._device, upload.random_state):
                outputs = self.part(*received)
            loss, correct = self._objective(outputs, labels)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        self._updater.apply(upload.epoch)
        gradients = tuple(
            torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for leaf in compress(leaves, upload.gradients_wanted)
        )
        return Answer(upload.step, True, loss.item(), correct, len(labels), gradients)

    def encode(self, answer: Answer) -> Outgoing:
        """The message of an answer."""
        encoded = self._codec_down.encode(answer.gradients, answer.step)
        message = Gradients(
            answer.step,
            answer.training,
            answer.loss,
            answer.correct,
            answer.count,
            encoded.spec,
            answer.times,
        )
        return Outgoing(message, encoded.buffers)

    def _check(self, message: Activations, buffers: int) -> int:
        """Number of samples, where everything announced fits this cut."""
        shapes = [spec.shape for spec in message.payload.tensors]
        count = message.labels.shape[0] if len(message.labels.shape) == 1 else -1
        if not 0 < count <= self._batch_size:
            raise ProtocolError(f"labels of shape {message.labels.shape}; batches have 1 to {self._batch_size} samples")
        if shapes != [(count, *shape) for shape in self._shapes]:
            raise ProtocolError(
                f"activations of shapes {shapes} came for {count} samples; at this cut they have {list(self._shapes)}"
            )
        if len(message.gradients_wanted) != len(shapes):
            raise ProtocolError(f"{len(message.gradients_wanted)} marks of wanted gradients for {len(shapes)} tensors")
        if buffers != len(shapes) + 2 + message.random_state:
            raise ProtocolError(f"activations of {len(shapes)} tensors came with {buffers} buffers")
        return count


def _whole_numbers(spec: TensorSpec, data: memoryview, count: int, what: str) -> Tensor:
    dtype = named_dtype(spec.dtype)
    if dtype.is_floating_point or spec.shape != (count,):
        raise ProtocolError(f"{what} of shape {spec.shape} and {spec.dtype} came for {count} samples")
    return from_bytes(data, dtype, spec.shape).long()


def _received(leaf: Tensor) -> Tensor:
    received: Tensor = _Received.apply(leaf)  # type: ignore[no-untyped-call]
    return received


class _Received(torch.autograd.Function):
    """The received tensor as a value that the tail's in-place operations may write to (a leaf they may not)."""

    @staticmethod
    def forward(_ctx: Any, leaf: Tensor) -> Tensor:
        """A tensor over the same memory that is no view for autograd."""
        empty = torch.empty(0, dtype=leaf.dtype, device=leaf.device)
        return empty.set_(leaf.untyped_storage(), leaf.storage_offset(), leaf.shape, leaf.stride())

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient
