"""How a run trains, and where it is, for its checkpoints; no more than data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
from torch import Tensor

from common.training.checkpoint import CheckpointStore, PendingStep
from common.training.journal import Journal, StepNumbers
from common.training.loop import Path
from common.training.moving import Change
from common.training.part_state import State, flat
from common.training.plateau import Plateau
from common.training.recorder import Recorded, Recorder
from common.training.schedule import Schedule
from common.training.station import TailFacts
from common.wire.structs import Job

Look: TypeAlias = Callable[[Path, int, Recorder], None]
"""Of what evaluation batches go through, the epoch's number, and the run's records."""


@dataclass(frozen=True)
class Plan:
    """How a run trains."""

    epochs: int
    schedule: Schedule
    window: int
    """Batches under way in an evaluation."""
    checkpoint_every: int = 0
    """Steps between checkpoints within an epoch; 0 for those at the ends of epochs only, below 0 for none at all."""
    changes: Mapping[int, Change] = field(default_factory=dict)
    """Changes of the plan, by the step before which they are due."""
    plateau: Plateau | None = None
    """Whether and how the held-out loss lowers the learning rate."""
    look: Look | None = None
    """Shown the model behind each evaluation."""
    most_stale: int | None = None
    """The largest K that a session is opened for; None where any will do."""


class EdgeFacts(msgspec.Struct, frozen=True):
    """What is no tensor of a head's checkpoint."""

    job: Job
    """With the cut of the moment."""
    session: str
    key: bytes
    epoch: int
    forwarded: int
    applied: int
    sent: int
    under_way: list[int]
    alone: bool
    """Taken while the edge trained without its cloud."""
    recorded: Recorded
    pending: list[PendingStep] = []
    numbers: dict[int, StepNumbers] = {}
    """Of the steps that are pending."""
    plateau: Plateau | None = None

    @property
    def answered(self) -> int:
        """Number of the first answer that had not been applied."""
        return self.under_way[0] if self.under_way else self.sent


@dataclass(frozen=True)
class CheckpointWriter:
    """Writes a checkpoint of the edge when its parts are there; see `common.training.carrier.Saving`.

    Args:
        facts: of the moment when it was taken.
        step: the step that was due then.
        store: where it goes.
        journal: has the numbers of steps under way.
        copies: where the copy of the tail goes, if one comes.
    """

    facts: EdgeFacts
    step: int
    store: CheckpointStore
    journal: Journal
    copies: CheckpointStore | None

    @property
    def wants_copy(self) -> bool:
        """Whether there is a place for one."""
        return self.copies is not None

    def write(self, tensors: dict[str, Tensor], pending: list[PendingStep]) -> None:
        """The head's state, and the steps under way."""
        numbers = self.journal.under_way(each.step for each in pending)
        facts = msgspec.structs.replace(self.facts, pending=pending, numbers=numbers)
        self.store.write(facts.sent, tensors, facts)

    def settle(self) -> None:
        """Wait until it is on disk."""
        self.store.join()

    def copied(self, tail: State) -> None:
        """A copy of the tail."""
        if self.copies is not None:
            facts = TailFacts(self.facts.job, self.facts.key, self.facts.sent, self.step, self.facts.epoch)
            self.copies.write(self.facts.sent, flat(tail, "tail/"), facts)
