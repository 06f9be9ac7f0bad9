"""The tail: the part of the model at the loss side, and what it does in a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from common.codec import Codec, Context, Encoded
from common.codec.buffers import dtype_name, from_bytes, named_dtype
from common.errors import ProtocolError, UsageError
from common.partition.layout import pack, unpack
from common.training.activation_cache import CachingCodec
from common.training.exchange import Answer, Forwarded, Objective, Outgoing, Returned, Upload, announced
from common.training.optimizers import Updater
from common.training.randomness import one_at_a_time, step_stream
from common.training.received import received_tensor
from common.training.session import StepOrder
from common.wire.framing import Frame
from common.wire.messages import Activations, Gradients
from common.wire.structs import TensorSpec

_Form: TypeAlias = tuple[tuple[int, ...], str]
"""Shape and name of the dtype of a tensor."""


@dataclass(frozen=True)
class _Open:
    """A step whose outputs are at the edge."""

    upload: Upload
    outputs: Tensor
    gradients: dict[int, Tensor]


class Tail:
    """Computes the loss of activations, updates its own part at once, and answers with their gradients.

    It touches no socket, thread or clock. `step` belongs to one thread; `decode` and `encode` may each run in
    another.

    Args:
        part: module from the activations to the model's outputs.
        updater: applies gradients to the part's parameters.
        codec_up: decodes activations (which come down, of a tail at the edge), and may keep them.
        codec_down: encodes gradients.
        objective: loss and number of right answers.
        example: shape and dtype of each activation of an example batch, in training.
        evaluation_example: the same in evaluation.
        example_size: samples in that batch.
        data_dependent: whether it is up to the data, and not to the number of samples alone, what crosses.
        most_bytes: of all activations of the largest batch, and of what carries them.
        batch_size: the largest batch.
        num_classes: labels must be below.
        labels_here: whether uploads have labels; else the edge computes the loss of what `forward` makes.
        seed: of the run.
        device: where the part computes.
    """

    def __init__(
        self,
        part: nn.Module,
        updater: Updater,
        codec_up: Codec | CachingCodec,
        codec_down: Codec,
        *,
        objective: Objective,
        example: Sequence[tuple[tuple[int, ...], torch.dtype]],
        evaluation_example: Sequence[tuple[tuple[int, ...], torch.dtype]],
        example_size: int,
        data_dependent: bool = False,
        most_bytes: int,
        batch_size: int,
        num_classes: int,
        labels_here: bool = True,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.part = part
        self.updater = updater
        self.codec_up, self.codec_down = codec_up, codec_down
        self._objective = objective
        examples = {True: example, False: evaluation_example}
        self._examples = {
            training: [(shape, dtype_name(dtype)) for shape, dtype in each] for training, each in examples.items()
        }
        self._example_size = example_size
        self._data_dependent = data_dependent
        self._most_bytes = most_bytes
        self._batch_size = batch_size
        self._num_classes = num_classes
        self.labels_here = labels_here
        self._open: _Open | None = None
        self._seed = seed
        self._device = torch.device(device)
        self.order = StepOrder()

    def decode(self, frame: Frame) -> Upload:
        """The upload in a frame; what it announces is checked before anything is decoded.

        Raises:
            ProtocolError: another message, one out of order, or tensors that do not belong to this cut.
        """
        message = frame.message
        if not isinstance(message, Activations):
            raise ProtocolError(f"the peer sent {type(message).__name__} where activations were due")
        self.order.activations(message)
        return self.read(frame, message)

    def read(self, frame: Frame, message: Activations) -> Upload:
        """The upload in a frame with a message that is due.

        Raises:
            ProtocolError: tensors that do not belong to this cut.
        """
        count = self._check(message, len(frame.buffers))
        crossing = len(message.payload.tensors)
        sent_labels, sent_ids, *state = frame.buffers[crossing:]
        labels = _whole_numbers(message.labels, sent_labels, count if self.labels_here else 0, "labels")
        if self.labels_here and not 0 <= int(labels.min()) <= int(labels.max()) < self._num_classes:
            raise ProtocolError(
                f"labels from {int(labels.min())} to {int(labels.max())} came; the job has {self._num_classes} classes"
            )
        ids = _whole_numbers(message.ids, sent_ids, count, "ids")
        at = Context(message.step, message.training, ids, message.views)
        storages = self.codec_up.decode(Encoded(message.payload, frame.buffers[:crossing]), at)
        # On the device before it is taken apart: moved one by one, tensors would no longer share their memory.
        tensors = unpack([each.to(self._device) for each in storages], message.views)
        return Upload(
            message.step,
            message.epoch,
            message.training,
            tensors,
            labels,
            ids,
            message.gradients_wanted,
            from_bytes(state[0], torch.uint8, (len(state[0]),)) if state else None,
            times=message.times,
        )

    def step(self, upload: Upload) -> Answer:
        """Forward, loss, and in training backward and one optimizer step."""
        if self.part.training != upload.training:
            self.part.train(upload.training)
        labels = upload.labels.to(self._device)
        if not upload.training:
            with torch.no_grad(), one_at_a_time:
                outputs = self.part(*upload.tensors)
                loss, correct = self._objective(outputs, labels)
            return Answer(upload.step, False, loss.item(), correct, len(labels), ())
        gradients: dict[int, Tensor] = {}
        with torch.enable_grad():
            outputs = self._forward(upload, gradients)
            loss, correct = self._objective(outputs, labels)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        self.updater.apply(upload.epoch)
        return Answer(upload.step, True, loss.item(), correct, len(labels), _due(upload, gradients))

    def forward(self, upload: Upload) -> Forwarded:
        """The outputs for an upload whose labels stay at the edge; in training `turn` goes on from here.

        Raises:
            UsageError: the model has other outputs than one tensor.
        """
        if self.part.training != upload.training:
            self.part.train(upload.training)
        gradients: dict[int, Tensor] = {}
        if upload.training:
            with torch.enable_grad():
                outputs = self._forward(upload, gradients)
        else:
            with torch.no_grad(), one_at_a_time:
                outputs = self.part(*upload.tensors)
        if not isinstance(outputs, Tensor):
            raise UsageError("--labels edge sends the model's outputs down, and they are not one tensor here")
        if upload.training:
            self._open = _Open(upload, outputs, gradients)
        return Forwarded(upload.step, upload.training, outputs.detach(), upload.times)

    def turn(self, returned: Returned) -> Answer:
        """Backward from the outputs on, and one optimizer step.

        Raises:
            ProtocolError: no such step is open, or gradients of another form than its outputs.
        """
        opened, self._open = self._open, None
        gradients = returned.gradients.to(self._device)
        if opened is None or opened.upload.step != returned.step:
            raise ProtocolError(f"gradients of the outputs of step {returned.step} came, which were not sent")
        outputs = opened.outputs
        if gradients.shape != outputs.shape or gradients.dtype != outputs.dtype:
            raise ProtocolError(f"gradients of shape {tuple(gradients.shape)} came for outputs {tuple(outputs.shape)}")
        if outputs.requires_grad:
            torch.autograd.backward([outputs], [gradients])
        self.updater.apply(opened.upload.epoch)
        count = len(opened.upload.ids)
        return Answer(
            returned.step, True, returned.loss, returned.correct, count, _due(opened.upload, opened.gradients)
        )

    def _forward(self, upload: Upload, gradients: dict[int, Tensor]) -> Any:
        """The part's outputs in training; the backward pass puts gradients of what was received where it is told."""
        received = [
            received_tensor(each, gradients, i) if wanted else each
            for i, (each, wanted) in enumerate(zip(upload.tensors, upload.gradients_wanted, strict=True))
        ]
        with step_stream(self._seed, upload.step, self._device, upload.random_state):
            return self.part(*received)

    def encode(self, answer: Answer) -> Outgoing:
        """The message of an answer."""
        storages, views = pack(answer.gradients)
        encoded = self.codec_down.encode(storages, Context(answer.step, answer.training, views=views))
        message = Gradients(
            answer.step,
            answer.training,
            answer.loss,
            answer.correct,
            answer.count,
            encoded.spec,
            answer.times,
            views,
        )
        return Outgoing(message, encoded.buffers)

    def _check(self, message: Activations, buffers: int) -> int:
        """Number of samples, where everything announced fits this cut."""
        of_samples, what = (message.labels, "labels") if self.labels_here else (message.ids, "ids")
        count = of_samples.shape[0] if len(of_samples.shape) == 1 else -1
        if not 0 < count <= self._batch_size:
            raise ProtocolError(f"{what} of shape {of_samples.shape}; batches have 1 to {self._batch_size} samples")
        came = announced(message.payload, message.views)
        if not self._data_dependent:
            self._compare(came, self._examples[message.training], count)
        sent = [(spec.shape, spec.dtype) for spec in message.payload.tensors]
        for each in (sent, came):
            nbytes = sum(prod(max(n, 0) for n in shape) * named_dtype(dtype).itemsize for shape, dtype in each)
            if nbytes > self._most_bytes:
                raise ProtocolError(f"activations of {nbytes} bytes came; a batch has {self._most_bytes} at most")
        if len(message.gradients_wanted) != len(came):
            raise ProtocolError(f"{len(message.gradients_wanted)} marks of wanted gradients for {len(came)} tensors")
        for (_, dtype), wanted in zip(came, message.gradients_wanted, strict=True):
            if wanted and not named_dtype(dtype).is_floating_point:
                raise ProtocolError(f"the gradient of a tensor of {dtype} is wanted; it has none")
        if buffers != len(sent) + 2 + message.random_state:
            raise ProtocolError(f"activations of {len(sent)} tensors came with {buffers} buffers")
        return count

    def _compare(self, came: Sequence[_Form], example: Sequence[_Form], count: int) -> None:
        if len(came) != len(example):
            raise ProtocolError(f"{len(came)} activations came; {len(example)} cross at this cut")
        for i, ((shape, dtype), (its_shape, its_dtype)) in enumerate(zip(came, example, strict=True)):
            if dtype != its_dtype or not self._fits(shape, its_shape, count):
                raise ProtocolError(
                    f"activation {i} came as {dtype} of shape {shape} for {count} samples; at this cut they have "
                    f"{its_dtype} of shape {its_shape} for {self._example_size}"
                )

    def _fits(self, shape: tuple[int, ...], example: tuple[int, ...], count: int) -> bool:
        """Whether each dimension is the example's, or grows with the samples (windows of an image, say)."""
        if len(shape) != len(example):
            return False
        return all(n == d or n * self._example_size == d * count for n, d in zip(shape, example, strict=True))


def _due(upload: Upload, gradients: dict[int, Tensor]) -> tuple[Tensor, ...]:
    """The gradients that were wanted; zeros of what the outputs do not depend on."""
    return tuple(
        gradients[i] if i in gradients else torch.zeros_like(each)
        for i, each in compress(enumerate(upload.tensors), upload.gradients_wanted)
    )


def _whole_numbers(spec: TensorSpec, data: memoryview, count: int, what: str) -> Tensor:
    dtype = named_dtype(spec.dtype)
    if dtype.is_floating_point or spec.shape != (count,):
        raise ProtocolError(f"{what} of shape {spec.shape} and {spec.dtype} came for {count} samples")
    return from_bytes(data, dtype, spec.shape).long()
