"""The tail at the edge: it asks the cloud's head for activations, and answers with the loss's gradients.

What the loss compares with (a private image, say) never leaves the edge. The order in which inputs and gradients are
sent is the order in which the cloud acts on them; so the edge's schedule is the cloud's, without a word about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from torch import Tensor, nn

from common.codec import Codec
from common.codec.buffers import to_bytes
from common.errors import ProtocolError
from common.training.checkpoint import PendingStep, under
from common.training.delay import NOT_LATE, Late
from common.training.exchange import Answer, Asked, Outgoing, Upload, narrowed, spec_of
from common.training.optimizers import Updater
from common.training.part_state import State, copied, state_of_part
from common.training.pending import HeadSnapshot, Pending
from common.training.session import AnswerOrder
from common.training.tail import Tail
from common.wire.framing import Frame
from common.wire.messages import Activations, Inputs


@dataclass(frozen=True)
class _Waiting:
    """A step whose activations have not come, or not been used."""

    epoch: int
    labels: Tensor
    ids: Tensor


class EdgeTail:
    """An `EdgeHalf` around a tail.

    `forward`, `complete`, and `encode` of an answer belong to one thread; `decode`, and `encode` of what is asked, may
    each run in another.

    Args:
        tail: with the objective; its uploads bring no labels.
        stale_it: staleness bound K.
        late: what the head is told to do about gradients being late.
    """

    replies = True
    keeps_labels = False

    def __init__(self, tail: Tail, *, stale_it: int, late: Late = NOT_LATE) -> None:
        self.tail = tail
        self._late, self._most_rate = late, late.most_rate(stale_it)
        # What `delta` remembers runs ahead with the decoder; it is written down where nothing is under way.
        self.keeps_graphs = stale_it == 0 or tail.codec_up.spec.memory == "delta"
        self._waiting: dict[tuple[bool, int], _Waiting] = {}
        self._order = AnswerOrder()

    @property
    def part(self) -> nn.Module:
        """From the activations to the outputs."""
        return self.tail.part

    @property
    def updater(self) -> Updater:
        """Of the part."""
        return self.tail.updater

    @property
    def codec_up(self) -> Codec:
        """Encodes gradients."""
        return self.tail.codec_down

    def forward(
        self, step: int, epoch: int, inputs: Sequence[Tensor], labels: Tensor, ids: Tensor, *, training: bool = True
    ) -> Asked:
        """Ask for the activations of a batch.

        Args:
            step: number of the training step, or of the batch in an evaluation.
            epoch: its epoch.
            inputs: the model's inputs, (B, ...) each.
            labels: (B, ...) what the loss compares with; it stays here.
            ids: (B,) indices of the samples.
            training: whether gradients will follow.
        """
        # Frames are acted on in order: what waits here is what the cloud has yet to apply before this step's gradient.
        under_way = sum(of_training for of_training, _ in self._waiting) if training else 0
        self._waiting[training, step] = _Waiting(epoch, labels, ids)
        self._order.sent(step, len(ids), training)
        return Asked(step, epoch, training, tuple(inputs), ids, under_way * self._late.lookahead * self._rate)

    def encode(self, item: Asked | Answer) -> Outgoing:
        """The message that asks for a step, or that ends it."""
        if isinstance(item, Answer):
            outgoing = self.tail.encode(item)
            return Outgoing(msgspec.structs.replace(outgoing.message, rate=item.rate), outgoing.buffers)
        ids = narrowed(item.ids)
        specs = tuple(spec_of(each) for each in item.inputs)
        message = Inputs(item.step, item.epoch, item.training, specs, spec_of(ids), item.ahead)
        return Outgoing(message, tuple(to_bytes(each) for each in (*item.inputs, ids)))

    def turn(self, upload: Upload, frame: Frame) -> Outgoing | Answer:
        """Outputs never come down: they are made here."""
        raise ProtocolError(f"the peer sent {type(frame.message).__name__} where activations were due")

    def decode(self, frame: Frame) -> Upload:
        """The activations in a frame, with what the loss compares their outputs with.

        Raises:
            ProtocolError: another message, activations of another step or of other samples than were asked for, or
                tensors that do not belong to this cut.
        """
        message = frame.message
        if not isinstance(message, Activations):
            raise ProtocolError(f"the peer sent {type(message).__name__} where activations were due")
        upload = self.tail.read(frame, message)
        self._order.answered(message.step, len(upload.ids), training=message.training)
        asked = self._waiting[message.training, message.step]
        if not torch.equal(upload.ids, asked.ids) or message.epoch != asked.epoch:
            raise ProtocolError(f"the activations of step {message.step} are of other samples than were asked for")
        return replace(upload, labels=asked.labels)

    def complete(self, came: Upload) -> Answer:
        """The step at this side: forward, loss, and in training backward and one optimizer step."""
        answer = self.tail.step(came)
        del self._waiting[came.training, came.step]
        return replace(answer, rate=self._rate)

    def outputs(self, came: Upload) -> Tensor:
        """What the model makes of an evaluation's activations, instead of `complete`."""
        del self._waiting[came.training, came.step]
        return self.tail.forward(came).outputs

    @property
    def _rate(self) -> float:
        """Factor of the head's learning rate."""
        return min(self.updater.factor, self._most_rate)

    def state(self) -> State:
        """Of the part and its optimizer."""
        return state_of_part(self.part, self.updater)

    def auxiliary_state(self) -> State:
        """Nothing: the part is all that is trained here."""
        return {}

    def snapshot(self) -> HeadSnapshot:
        """The state between two steps, in memory of its own."""
        waiting = {
            step: Pending(each.epoch, (each.labels, each.ids), (), [], None, len(each.ids))
            for (training, step), each in self._waiting.items()
            if training
        }
        # Here and not in `finish`: gradients are encoded in the thread that computes them.
        memories = (("up/", self.tail.codec_down), ("down/", self.tail.codec_up))
        codecs = {f"{way}{name}": value.clone() for way, codec in memories for name, value in codec.state().items()}
        return HeadSnapshot(copied(self.state()), waiting, codecs)

    def finish(self, snapshot: HeadSnapshot) -> tuple[dict[str, Tensor], list[PendingStep]]:
        """All of it is there already."""
        return snapshot.written()

    def load(self, tensors: Mapping[str, Tensor], pending: Sequence[PendingStep]) -> None:
        """Go on from what `finish` gave; the part and its optimizer have their state already."""
        self.tail.codec_down.load_state(under(tensors, "up/"))
        self.tail.codec_up.load_state(under(tensors, "down/"))
        for each in pending:
            labels, ids = Pending.read(tensors, each, torch.device("cpu")).inputs
            self._waiting[True, each.step] = _Waiting(each.epoch, labels, ids)
            self._order.sent(each.step, each.count)
