"""What a run at the edge holds of the model, whichever part that is: it asks the other half for each step.

With activations going up it is a `Head`: it uploads activations and applies the gradients that come back. With
activations going down it is an `EdgeTail`: it uploads inputs, takes the activations that come, and replies with
gradients. Trainer, schedule, carriers and checkpoints know no more of either than this.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from torch import Tensor, nn

from common.codec import Codec
from common.training.checkpoint import PendingStep
from common.training.exchange import Answer, Outgoing
from common.training.optimizers import Updater
from common.training.part_state import State
from common.training.pending import HeadSnapshot
from common.wire.framing import Frame

Sent_co = TypeVar("Sent_co", covariant=True)
Came = TypeVar("Came")


class EdgeHalf(Protocol[Sent_co, Came]):
    """The edge's half of the model; ``Sent_co`` is what asks for a step, ``Came`` what answers."""

    @property
    def part(self) -> nn.Module:
        """The layers."""

    @property
    def updater(self) -> Updater:
        """Applies gradients to them."""

    @property
    def codec_up(self) -> Codec:
        """Encodes what this half sends."""

    @property
    def keeps_graphs(self) -> bool:
        """Whether a checkpoint must wait until nothing is under way."""

    @property
    def keeps_labels(self) -> bool:
        """Whether each step's outputs come down in between: see `Head.turn`."""

    @property
    def replies(self) -> bool:
        """Whether something goes back behind `complete` in training; `encode` makes its message."""

    def forward(
        self, step: int, epoch: int, inputs: Sequence[Tensor], labels: Tensor, ids: Tensor, *, training: bool = True
    ) -> Sent_co:
        """Begin a step: what asks the other half."""

    def encode(self, item: Any) -> Outgoing:
        """The message of what `forward` or `complete` gave."""

    def turn(self, upload: Any, frame: Frame) -> Outgoing | Answer:
        """Of a half that keeps its labels."""

    def decode(self, frame: Frame) -> Came:
        """What answers, from its frame."""

    def complete(self, came: Came) -> Answer:
        """End a step at this side: update the part; with the loss."""

    def state(self) -> State:
        """Of the part, its optimizer, and what else this half trains."""

    def auxiliary_state(self) -> State:
        """Of what this half trains besides the part; it stays where it is when blocks change sides."""

    def snapshot(self) -> HeadSnapshot:
        """The state between two steps, in memory of its own."""

    def finish(self, snapshot: HeadSnapshot) -> tuple[dict[str, Tensor], list[PendingStep]]:
        """Complete a snapshot behind the encoding of all before it, in the thread that encodes."""

    def load(self, tensors: Mapping[str, Tensor], pending: Sequence[PendingStep]) -> None:
        """Go on from what `finish` gave."""


Half: TypeAlias = EdgeHalf[Any, Any]
