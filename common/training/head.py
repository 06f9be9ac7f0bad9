"""The head: the part of the model at the input side, and what it does in a step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import compress

import torch
from torch import Tensor, nn

from common.codec import Codec, Context, Encoded
from common.codec.buffers import dtype_name, to_bytes
from common.errors import ProtocolError
from common.partition.layout import pack, unpack
from common.training.activation_cache import CacheIndex
from common.training.auxiliary import Auxiliary
from common.training.checkpoint import PendingStep, under
from common.training.delay import NO_CORRECTION, Delay
from common.training.edge_loss import loss_of_outputs
from common.training.exchange import Answer, Objective, Outgoing, Upload, announced, narrowed, spec_of
from common.training.optimizers import Updater
from common.training.part_state import State, copied, state_of_part
from common.training.pending import HeadSnapshot, Pending
from common.training.randomness import one_at_a_time, step_stream
from common.training.session import AnswerOrder
from common.training.stash import Stash
from common.wire.framing import Frame
from common.wire.messages import Activations, Gradients
from common.wire.structs import View


class Head:
    """Computes activations, and applies the gradients that come back for them.

    It touches no socket, thread or clock. `forward` and `backward` belong to one thread; `encode` and `decode`
    may each run in another.

    Args:
        part: module from the inputs to a tuple of activations.
        updater: applies gradients to the part's parameters.
        codec_up: encodes activations (which go down, of a head at the cloud).
        codec_down: decodes gradients.
        gradients_wanted: for each activation, whether its gradient is of use.
        groups: indices of activations that have memory in common in training, for each such memory.
        evaluation_groups: the same in evaluation.
        evaluation_count: number of activations in evaluation.
        stale_it: staleness bound K. At 0 the graph of the forward pass is kept; above, the backward pass computes
            the activations again from the stored input under the current weights (feature replay).
        stash: keep graph and weights of each forward pass instead, at any K: the gradient is that of the weights then.
        seed: of the run; dropout masks of step t are a function of (seed, t).
        objective: loss and number of right answers, where the labels stay at this side.
        sends_labels: whether labels go up; not where they stay at this side, nor where another party has them.
        delay: what is done about gradients being late.
        auxiliary: trains the part by a loss of its own, but for the steps that wait for the cloud's gradient.
        cache: what the cloud keeps of activations, of a head that trains nothing.
        taylor: correct each gradient for the codec's error, g <- g - E g g (the paper's ``--use_EF 1``), also where
            ``codec_up`` does not name it.
        evaluations_answered: whether the tail answers an evaluation's activations; not where the loss is wanted there.
        device: where the part computes.
    """

    def __init__(
        self,
        part: nn.Module,
        updater: Updater,
        codec_up: Codec,
        codec_down: Codec,
        *,
        gradients_wanted: Sequence[bool],
        groups: Sequence[Sequence[int]] = (),
        evaluation_groups: Sequence[Sequence[int]] = (),
        evaluation_count: int | None = None,
        stale_it: int,
        seed: int,
        objective: Objective | None = None,
        sends_labels: bool = True,
        delay: Delay = NO_CORRECTION,
        auxiliary: Auxiliary | None = None,
        cache: CacheIndex | None = None,
        taylor: bool = False,
        stash: bool = False,
        evaluations_answered: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.part = part
        self.updater = updater
        self.codec_up, self.codec_down = codec_up, codec_down
        self._gradients_wanted = tuple(gradients_wanted)
        self._groups = {True: groups, False: evaluation_groups}
        self._counts = {
            True: len(gradients_wanted),
            False: len(gradients_wanted) if evaluation_count is None else evaluation_count,
        }
        self._stale_it = stale_it
        self._stash = Stash(part) if stash and stale_it > 0 else None
        self.keeps_graphs = stash or stale_it == 0
        """Whether a checkpoint must wait until nothing is under way: graphs are not written to files."""
        self._seed = seed
        self._objective = objective
        self._evaluations_answered = evaluations_answered
        self._sends_labels = sends_labels and objective is None
        self._delay = delay
        self._taylor = (taylor or codec_up.spec.taylor) and not codec_up.is_exact
        self._auxiliary, self._cache = auxiliary, cache
        self._device = torch.device(device)
        self._pending: dict[int, Pending] = {}
        self._order = AnswerOrder()

    def forward(
        self,
        step: int,
        epoch: int,
        inputs: Sequence[Tensor],
        labels: Tensor,
        ids: Tensor,
        *,
        training: bool = True,
        ahead: float = 0.0,
    ) -> Upload:
        """Compute the activations of a batch under the current weights.

        Args:
            step: number of the training step, or of the batch in an evaluation.
            epoch: its epoch.
            inputs: the model's inputs, (B, ...) each.
            labels: (B,) integer classes.
            ids: (B,) indices of the samples.
            training: whether a gradient will come back.
            ahead: of a head at the cloud: so many steps on the weights to compute with are expected.
        """
        if self._cache is not None and self._cache.knows(ids, training=training):
            return self._recall(step, epoch, labels, ids, training)
        inputs = tuple(each.to(self._device) for each in inputs)
        local = self._auxiliary if training and self._auxiliary and not self._auxiliary.aligns(step) else None
        keep = training and self.keeps_graphs and local is None
        late = (self._stale_it if self._delay.lookahead else ahead) if training else 0
        with (
            torch.set_grad_enabled(keep or local is not None),
            self.updater.ahead(late, epoch) if late else nullcontext(),
            self._stash.kept() if keep and self._stash else nullcontext(),
        ):
            outputs, drawn = self._run(step, inputs, training)
        wanted: tuple[bool, ...] = ()
        if local is not None:
            wanted = (False,) * len(outputs)
            self._pending[step] = Pending(epoch, (), wanted, [], None, len(labels))
            local.learn(outputs, labels, epoch)
            self.updater.apply(epoch)
        elif training:
            wanted = self._wanted(outputs)
            due = [(tuple(each.shape), dtype_name(each.dtype)) for each in compress(outputs, wanted)]
            self._pending[step] = Pending(epoch, inputs, wanted, due, outputs if keep else None, len(ids))
        if training or self._evaluations_answered:
            self._order.sent(step, len(ids), training)
        return Upload(step, epoch, training, outputs, labels, ids, wanted, drawn)

    def encode(self, upload: Upload) -> Outgoing:
        """The message of an upload."""
        encoded, views = self._encode_tensors(upload)
        labels = narrowed(upload.labels if self._sends_labels else upload.labels[:0])
        ids = narrowed(upload.ids)
        buffers = [*encoded.buffers, to_bytes(labels), to_bytes(ids)]
        if upload.random_state is not None:
            buffers.append(to_bytes(upload.random_state))
        message = Activations(
            upload.step,
            upload.epoch,
            upload.training,
            encoded.spec,
            spec_of(labels),
            spec_of(ids),
            upload.gradients_wanted or (False,) * len(views or encoded.spec.tensors),
            upload.random_state is not None,
            views,
        )
        return Outgoing(message, tuple(buffers))

    def _encode_tensors(self, upload: Upload) -> tuple[Encoded, tuple[View, ...]]:
        if upload.recalled and self._cache is not None:
            return self._cache.recalled(len(upload.ids), training=upload.training)
        storages, views = pack(upload.tensors, self._sharing(upload))
        at = Context(upload.step, upload.training, upload.ids, views)
        if self._cache is not None:
            self._cache.sent(storages, upload.ids, views, training=upload.training)
        if not (upload.training and self._taylor):
            return self.codec_up.encode(storages, at), views
        encoded, decoded = self.codec_up.encode_and_decode(storages, at)
        self._pending[upload.step].coding_error = tuple(
            d.to(t) - t.detach()
            for d, t in compress(zip(unpack(decoded, views), upload.tensors, strict=True), upload.gradients_wanted)
        )
        return encoded, views

    @property
    def replies(self) -> bool:
        """Whether something goes back behind `complete`."""
        return False

    @property
    def under_way(self) -> dict[int, Pending]:
        """Training steps whose gradients have not been applied."""
        return self._pending

    @property
    def keeps_labels(self) -> bool:
        """Whether the loss is computed at this side, from outputs that come down: see `turn`."""
        return self._objective is not None

    def turn(self, upload: Upload, frame: Frame) -> Outgoing | Answer:
        """The loss of the outputs in a frame: in training its gradients, to be sent; in an evaluation the answer.

        Raises:
            ProtocolError: another message, or outputs of other samples.
        """
        if self._objective is None:
            raise ProtocolError("the peer sent outputs, and the loss is not computed at this side")
        turned = loss_of_outputs(self._objective, upload, frame, self._device)
        if isinstance(turned, Answer):
            self._order.answered(upload.step, len(upload.labels), training=False)
        return turned

    def decode(self, frame: Frame) -> Answer:
        """The answer in a frame.

        Raises:
            ProtocolError: another message, or gradients that do not fit the activations of their step.
        """
        message = frame.message
        if not isinstance(message, Gradients):
            raise ProtocolError(f"the peer sent {type(message).__name__} where gradients were due")
        self._order.gradients(message)
        came = announced(message.payload, message.views)
        if came != (self._pending[message.step].gradients if message.training else []):
            raise ProtocolError(f"gradients {came} came; step {message.step} has other activations")
        at = Context(message.step, message.training)
        storages = self.codec_down.decode(Encoded(message.payload, frame.buffers), at)
        gradients = unpack([each.to(self._device) for each in storages], message.views)
        return Answer(
            message.step,
            message.training,
            message.loss,
            message.correct,
            message.count,
            gradients,
            message.times,
            message.rate,
        )

    def complete(self, answer: Answer) -> Answer:
        """Do what is due when an answer has come: in training, `backward`. The answer itself."""
        if answer.training:
            self.backward(answer)
        return answer

    def backward(self, answer: Answer) -> None:
        """Apply a step's gradients: replay its forward pass where the graph was not kept, and update the weights.

        BatchNorm statistics have counted the batch in `forward`; the replay leaves buffers as they are.
        """
        pending = self._pending.pop(answer.step)
        if not answer.gradients:
            return
        gradients = answer.gradients
        if pending.coding_error is not None:
            gradients = tuple(g - e * g * g for g, e in zip(gradients, pending.coding_error, strict=True))
        if self._stale_it and self._delay.shrink != 1:
            gradients = tuple(self._delay.shrink * g for g in gradients)
        with torch.enable_grad(), self._buffers_kept(pending.outputs is None):
            outputs = pending.outputs or self._run(answer.step, pending.inputs, training=True)[0]
            due = zip(compress(outputs, pending.wanted), gradients, strict=True)
            learnt = [(output, gradient) for output, gradient in due if output.requires_grad]
            torch.autograd.backward([output for output, _ in learnt], [gradient for _, gradient in learnt])
        if self._stash and self._pending:
            self._stash.renew()
        self.updater.apply(pending.epoch)

    def snapshot(self) -> HeadSnapshot:
        """The state between two steps, in memory of its own; `finish` it where it is encoded."""
        return HeadSnapshot(copied(self.state()), dict(self._pending))

    def state(self) -> State:
        """Of the part and its optimizer, and of the auxiliary classifier with its own; the tensors are their own."""
        return {**state_of_part(self.part, self.updater), **self.auxiliary_state()}

    def auxiliary_state(self) -> State:
        """Of the auxiliary classifier; empty where there is none."""
        return {} if self._auxiliary is None else self._auxiliary.state()

    def finish(self, snapshot: HeadSnapshot) -> tuple[dict[str, Tensor], list[PendingStep]]:
        """Complete a snapshot behind the encoding of all uploads before it, in the thread that encodes."""
        tensors, pending = snapshot.written()
        tensors |= {f"up/{name}": value.clone() for name, value in self.codec_up.state().items()}
        if self._cache is not None:
            tensors |= {f"cache/{name}": value for name, value in self._cache.state().items()}
        return tensors, pending

    def load(self, tensors: Mapping[str, Tensor], pending: Sequence[PendingStep]) -> None:
        """Go on from what `finish` gave; the part and its optimizer have their state already."""
        self.codec_up.load_state(under(tensors, "up/"))
        if self._cache is not None:
            self._cache.load_state(under(tensors, "cache/"))
        self.load_under_way(tensors, pending)

    def load_under_way(self, tensors: Mapping[str, Tensor], pending: Sequence[PendingStep]) -> None:
        """Take the steps whose gradients had not been applied."""
        self._pending = {each.step: Pending.read(tensors, each, self._device) for each in pending}
        for each in pending:
            self._order.sent(each.step, each.count)

    def trial(self, inputs: Tensor) -> tuple[tuple[Tensor, ...], bool]:
        """What would carry the activations of a batch in training, and whether the pass draws random numbers.

        Nothing of the head changes.
        """
        with torch.no_grad(), self._buffers_kept(True):
            outputs, drawn = self._run(0, (inputs.to(self._device),), training=True)
        return pack(outputs, self._groups[True])[0], drawn is not None

    def _recall(self, step: int, epoch: int, labels: Tensor, ids: Tensor, training: bool) -> Upload:
        """The upload of a batch that the cloud has."""
        if training:
            self._pending[step] = Pending(epoch, (), (), [], None, len(labels))
        self._order.sent(step, len(labels), training)
        return Upload(step, epoch, training, (), labels, ids, (), recalled=True)

    def _run(self, step: int, inputs: tuple[Tensor, ...], training: bool) -> tuple[tuple[Tensor, ...], Tensor | None]:
        if self.part.training != training:
            self.part.train(training)
        if not training:
            with one_at_a_time:
                return self.part(*inputs), None
        with step_stream(self._seed, step, self._device) as stream:
            outputs: tuple[Tensor, ...] = self.part(*inputs)
        return outputs, stream.drawn

    def _sharing(self, upload: Upload) -> Sequence[Sequence[int]]:
        """Which activations have memory in common; where others cross than were recorded, any may."""
        count = len(upload.tensors)
        return self._groups[upload.training] if count == self._counts[upload.training] else (tuple(range(count)),)

    def _wanted(self, outputs: tuple[Tensor, ...]) -> tuple[bool, ...]:
        """For each activation, whether its gradient is of use.

        A recorded model may take another way than in its recording, with other tensors alive at the cut: then any.
        """
        if len(outputs) == len(self._gradients_wanted):
            return self._gradients_wanted
        return tuple(each.is_floating_point() for each in outputs)

    @contextmanager
    def _buffers_kept(self, keep: bool) -> Iterator[None]:
        saved = [(buffer, buffer.clone()) for buffer in self.part.buffers()] if keep else []
        yield
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)
