"""A run at the side of the head: epochs, evaluations, checkpoints, and moves of the cut, over whatever carrier."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from torch import Tensor
from tqdm import tqdm

from common.datasets.batches import Batches
from common.partition.graph import Graph
from common.training.carrier import Carrier, Saving, Tally
from common.training.checkpoint import CheckpointStore, PendingStep
from common.training.control import Control
from common.training.digest import combined_digest, parameter_digests
from common.training.head import Head
from common.training.journal import Journal, StepNumbers
from common.training.loop import Path, Progress, StepDone, evaluate, train_steps
from common.training.moving import MakeHead, average_head, find_cut, move_cut
from common.training.part_state import unflat
from common.training.recorder import Recorded, Recorder
from common.training.schedule import Schedule
from common.wire.messages import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How a run trains."""

    epochs: int
    schedule: Schedule
    stale_it: int
    window: int
    """Batches under way in an evaluation."""
    checkpoint_every: int = 0
    """Steps between checkpoints within an epoch; 0 for those at the ends of epochs only, below 0 for none at all."""
    moves: Mapping[int, str] = field(default_factory=dict)
    """Cuts to move to, by the step before which that is."""


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
    pending: list[PendingStep]
    numbers: dict[int, StepNumbers]
    recorded: Recorded

    @property
    def answered(self) -> int:
        """Number of the first answer that had not been applied."""
        return self.under_way[0] if self.under_way else self.sent


class Trainer:
    """Trains a head from where it is to the end.

    Args:
        head: of the job.
        job: what is trained.
        graph: of the model; its weights are in the parts.
        make_head: makes a head of a job.
        data: batches to train on, and held-out ones.
        plan: how.
        recorder: the run's folder.
        journal: times and bytes of the steps.
        store: where checkpoints go.
        control: requests of the user while it runs.
    """

    def __init__(
        self,
        head: Head,
        job: Job,
        graph: Graph,
        make_head: MakeHead,
        data: tuple[Batches, Batches],
        plan: Plan,
        recorder: Recorder,
        journal: Journal,
        *,
        store: CheckpointStore,
        control: Control | None = None,
    ) -> None:
        self.head, self.job = head, job
        self._graph, self._make_head = graph, make_head
        self._train, self._test = data
        self._plan = plan
        self.recorder, self.journal, self.store = recorder, journal, store
        self._control = control or Control()
        self._epoch, self._at = 0, Progress()
        self._moved_before = -1
        self._saved_at = -1
        self.tally = Tally()
        """Where the session goes on, of a trainer that was restored."""
        self.session = ("", b"")
        """Name and key, for checkpoints."""
        self.share = "none"
        """What the session has in common with others; see `common.training.sharing`."""
        self._tell_setting()

    @property
    def step(self) -> int:
        """Steps of the run whose forward is done."""
        return self._epoch * len(self._train) + self._at.forwarded

    def run(self, carrier: Carrier) -> dict[str, str]:
        """Train to the end; digests of the tail.

        Raises:
            SessionGone: the tail is lost; with `restore` this trainer can go on over another carrier.
            TandemError: anything else that ends a run.
        """
        if self._saves and self._saved_at < 0:
            self._save(carrier)  # else a cloud that is lost early could not be gone back to
        while self._epoch < self._plan.epochs:
            self._train_epoch(carrier)
            if self.share == "average":
                self._average(carrier)
            self._evaluate(carrier)
            self._epoch, self._at = self._epoch + 1, Progress()
            if self._saves and self._epoch < self._plan.epochs:
                self._save(carrier)
        return carrier.finish()

    def finish(self, digests: dict[str, str], facts: dict[str, Any]) -> dict[str, Any]:
        """Write what is written at the end of a run; the summary."""
        digest = combined_digest(parameter_digests(self.head.part), digests)
        summary = self.recorder.finish(self.journal.spans, self.head.part, {**facts, "parameters_digest": digest})
        self.store.clear()
        return summary

    def restore(self, number: int) -> None:
        """Go back to a checkpoint of the store.

        Raises:
            DataError: it cannot be read.
        """
        self.store.join()
        tensors, facts = self.store.read(number, EdgeFacts)
        self.job = facts.job
        self.head = self._make_head(facts.job, state=unflat(tensors, "head/"))
        self.head.load(tensors, facts.pending)
        self._epoch, self._at = facts.epoch, Progress(facts.forwarded, facts.applied)
        self.tally = Tally(facts.sent, list(facts.under_way))
        self.session = (facts.session, facts.key)
        self._saved_at = self.step
        due = self._plan.moves.get(self.step)
        done = due is not None and find_cut(self._graph, due).index == self.job.cut
        self._moved_before = self.step if done else -1
        self.journal.put(facts.numbers)
        first = self._epoch * len(self._train)
        self.recorder.rewind(facts.recorded, first + facts.applied, facts.epoch)
        self.store.forget_behind(number)
        self._tell_setting()

    @property
    def _saves(self) -> bool:
        return self._plan.checkpoint_every >= 0 and self.share == "none"

    def _train_epoch(self, carrier: Carrier) -> None:
        plan, at, total = self._plan, self._at, len(self._train)
        first = self._epoch * total
        begins = not at.forwarded
        with tqdm(
            total=total,
            initial=at.applied,
            desc=f"epoch {self._epoch + 1}/{plan.epochs}",
            unit="step",
            disable=not sys.stderr.isatty(),
        ) as bar:

            def on_step(done: StepDone) -> None:
                self.recorder.step(done)
                bar.update()
                bar.set_postfix(loss=f"{self.recorder.trained.loss:.4f}", refresh=False)

            def before(step: int) -> bool:
                if self._moves_before(step):
                    return True
                every = plan.checkpoint_every
                if every > 0 and step % every == 0 and step != self._saved_at:
                    self._save(carrier)
                return False

            if begins:
                self.recorder.epoch_begins()
            while at.applied < total:
                train_steps(
                    Path(self.head, carrier, self.journal),
                    self._train.epoch(self._epoch, at.forwarded),
                    total,
                    epoch=self._epoch,
                    first_step=first,
                    schedule=plan.schedule,
                    stale_it=plan.stale_it,
                    on_step=on_step,
                    at=at,
                    before=before,
                )
                if at.applied < total:
                    self._move_now(carrier)

    def _average(self, carrier: Carrier) -> None:
        """Behind an epoch, take the mean of all edges' heads; waits for them."""
        begun_s = time.perf_counter()
        edges = average_head(self.head, carrier)
        log.info("mean of %d edges, after %.1f s", edges, time.perf_counter() - begun_s)

    def _evaluate(self, carrier: Carrier) -> None:
        path = Path(self.head, carrier, self.journal)
        score = evaluate(path, self._test.epoch(self._epoch), epoch=self._epoch, window=self._plan.window)
        self.recorder.epoch(self._epoch, score)
        trained = self.recorder.trained
        log.info(
            "epoch %d/%d: training loss %.4f, accuracy %.2f %%; held-out loss %.4f, accuracy %.2f %% (%d samples)",
            self._epoch + 1,
            self._plan.epochs,
            trained.loss,
            100 * trained.accuracy,
            score.loss,
            100 * score.accuracy,
            score.count,
        )

    def _save(self, carrier: Carrier) -> None:
        """Let both sides keep what they are, without waiting for anything that is under way."""
        tally = replace(carrier.tally, sent=carrier.tally.sent + 1, under_way=list(carrier.tally.under_way))
        recorded, epoch, at = self.recorder.state(), self._epoch, replace(self._at)
        job, (session, key) = self.job, self.session

        def write(saving: Saving, tensors: dict[str, Tensor], pending: list[PendingStep]) -> None:
            numbers = self.journal.under_way(each.step for each in pending)
            facts = EdgeFacts(
                job,
                session,
                key,
                epoch,
                at.forwarded,
                at.applied,
                tally.sent,
                tally.under_way,
                pending,
                numbers,
                recorded,
            )
            self.store.write(saving.number, tensors, facts)

        self._saved_at = self.step
        carrier.save(Saving(self.head.snapshot(), tally.sent, carrier.tally.answered, write))

    def _moves_before(self, step: int) -> bool:
        """Whether the cut is to be moved before a step's forward, and was not yet."""
        return self._control.waiting() or (step in self._plan.moves and step != self._moved_before)

    def _move_now(self, carrier: Carrier) -> None:
        """Carry out the moves that are due; nothing is under way."""
        if self.step in self._plan.moves and self.step != self._moved_before:
            self._moved_before = self.step
            self.move(carrier, self._plan.moves[self.step])
        self._control.answer(lambda cut: self.move(carrier, cut))

    def move(self, carrier: Carrier, cut: str) -> str:
        """Cut the model elsewhere from now on: what changes sides goes with its weights and its optimizer's state.

        Returns:
            What was done, in words.

        Raises:
            UsageError: there is no such cut, or training would be wrong there; all stays as it is.
        """
        begun_s = time.perf_counter()
        self.head, self.job, nbytes = move_cut(self.head, self.job, self._graph, self._make_head, carrier, cut)
        carrier.head = self.head
        seconds = time.perf_counter() - begun_s
        self.recorder.moved(seconds)
        self._tell_setting()
        words = (
            f"cut behind {self.job.cut_name} from step {self.step} on; {nbytes / 1e6:.2f} MB moved, "
            f"{seconds:.3f} s paused"
        )
        log.info("%s", words)
        return words

    def _tell_setting(self) -> None:
        self.recorder.setting = {
            "cut": self.job.cut,
            "compress_up": self.job.compress_up,
            "compress_down": self.job.compress_down,
            "stale_it": self._plan.stale_it,
        }
