"""A run at the side of the head: epochs, evaluations, checkpoints, and moves of the cut, over whatever carrier."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import msgspec
from tqdm import tqdm

from common.datasets.batches import Batches
from common.errors import UsageError
from common.partition.graph import Graph
from common.training.carrier import Carrier, Saving, Tally
from common.training.checkpoint import CheckpointStore
from common.training.control import Control
from common.training.digest import combined_digest, parameter_digests
from common.training.half import Half
from common.training.journal import Journal
from common.training.loop import Path, Progress, StepDone, evaluate, train_steps
from common.training.moving import Change, MakeHead, average_head, change_plan, hand_back
from common.training.part_state import State, unflat
from common.training.recorder import Recorder
from common.training.run_state import CheckpointWriter, EdgeFacts, Plan
from common.training.steering import Steering
from common.wire.structs import Job

log = logging.getLogger(__name__)


MakeHere: TypeAlias = Callable[[Half, Job, Journal, tuple[int, int]], Carrier]
"""Of a head, its job, the journal, and the step that is due with its epoch."""


class CloudIsBack(Exception):
    """Between two steps of an edge that trains alone."""


class Trainer:
    """Trains the edge's half, mostly a head, from where it is to the end.

    Args:
        head: of the job; of one whose activations come down, the tail.
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
        head: Half,
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
        self._planned = job
        """Also while the edge trains alone."""
        self._graph, self._make_head = graph, make_head
        self._train, self._test = data
        self._plan = plan
        self.recorder, self.journal, self.store = recorder, journal, store
        self.steering = Steering(plan.changes, control or Control())
        self._epoch, self._at = 0, Progress()
        self._saved_at = -1
        self.here: MakeHere | None = None
        """Makes the other half in this process, for plans with all of the model on the edge."""
        self._carrier_here: Carrier | None = None
        self.copies: CheckpointStore | None = None
        """Where copies of the tail go at each checkpoint, of an edge that may have to train alone."""
        self._alone = False
        self._until: Callable[[], bool] | None = None
        self.tally = Tally()
        """Where the session goes on, of a trainer that was restored."""
        self.session = ("", b"")
        """Name and key, for checkpoints."""
        self.plateau = plan.plateau
        """What the held-out losses so far make of the learning rate."""
        self.share = "none"
        """What the session has in common with others; see `common.training.sharing`."""
        self._tell_setting()

    @property
    def step(self) -> int:
        """Steps of the run whose forward is done."""
        return self._epoch * len(self._train) + self._at.forwarded

    @property
    def due(self) -> tuple[int, int]:
        """The step that is due next, and its epoch."""
        return self.step, self._epoch

    def run(self, carrier: Carrier, until: Callable[[], bool] | None = None) -> dict[str, str]:
        """Train to the end; digests of the tail.

        Args:
            carrier: to the tail.
            until: asked before each step with nothing under way; says yes where training is to go on elsewhere.

        Raises:
            CloudIsBack: ``until`` said yes.
            SessionGone: the tail is lost; with `restore` this trainer can go on over another carrier.
            TandemError: anything else that ends a run.
        """
        self._until = until
        self._settle()
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
        if self.job.parties:
            if self._saves and self._saved_at != self.step:
                self._save(carrier, last=True)  # from here on this party needs no other one
            log.info("all steps are done here; waiting until the other parties have had their answers, too")
        return carrier.finish()

    def finish(self, digests: dict[str, str], facts: dict[str, Any]) -> dict[str, Any]:
        """Write what is written at the end of a run; the summary."""
        digest = combined_digest(parameter_digests(self.head.part), digests)
        name = "head" if self.job.direction == "up" else "tail"
        facts = {**facts, "parameters_digest": digest}
        summary = self.recorder.finish(self.journal.spans, self.head.part, facts, name=name)
        self.store.clear()
        return summary

    def restore(self, number: int, *, alone: bool = False) -> None:
        """Go back to a checkpoint of the store.

        Args:
            number: of the checkpoint.
            alone: go on with the tail in this process: nothing is compressed, and nothing is stale.

        Raises:
            DataError: it cannot be read.
        """
        self.store.join()
        tensors, facts = self.store.read(number, EdgeFacts)
        self._planned = msgspec.structs.replace(facts.job, epochs=self._planned.epochs)
        self._alone = alone
        alike = {"compress_up": "none", "compress_down": "none", "stale_it": 0} if alone else {}
        self.job = msgspec.structs.replace(self._planned, **alike)
        self.head = self._make_head(self.job, state=unflat(tensors, "head/"))
        if alone == facts.alone:
            self.head.load(tensors, facts.pending)
        self._epoch, self._at = facts.epoch, Progress(facts.forwarded, facts.applied)
        self.tally = Tally(facts.sent, list(facts.under_way))
        self.session = (facts.session, facts.key)
        self.plateau = facts.plateau
        self._saved_at = self.step
        due = self._plan.changes.get(self.step)
        self.steering.goes_on(self.step, done=due is not None and not due.differs(self._planned, self._graph))
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
                self.steering.observe(done)
                bar.update()
                bar.set_postfix(loss=f"{self.recorder.trained.loss:.4f}", refresh=False)

            def before(step: int) -> bool:
                if self._until is not None and self._until():
                    raise CloudIsBack
                if self.steering.due(self.job, step, plan.epochs * total - step, alone=self._alone):
                    return True
                every = plan.checkpoint_every
                if every > 0 and step % every == 0 and step != self._saved_at:
                    if (self.copies is not None or self.head.keeps_graphs) and at.applied < at.forwarded:
                        return True  # a copy that the edge could go on from alone has nothing under way
                    self._save(carrier)
                return False

            if begins:
                self.recorder.epoch_begins()
            while at.applied < total:
                train_steps(
                    Path(self.head, self._carrier_here or carrier, self.journal),
                    self._train.epoch(self._epoch, at.forwarded),
                    total,
                    epoch=self._epoch,
                    first_step=first,
                    schedule=plan.schedule,
                    stale_it=self.job.stale_it,
                    on_step=on_step,
                    at=at,
                    before=before,
                )
                if at.applied < total:
                    self.steering.carry_out(self.step, lambda change: self.change(carrier, change), alone=self._alone)

    def _average(self, carrier: Carrier) -> None:
        """Behind an epoch, take the mean of all edges' heads; waits for them."""
        begun_s = time.perf_counter()
        edges = average_head(self.head, carrier)
        log.info("mean of %d edges, after %.1f s", edges, time.perf_counter() - begun_s)

    def _evaluate(self, carrier: Carrier) -> None:
        path = Path(self.head, self._carrier_here or carrier, self.journal)
        score = evaluate(path, self._test.epoch(self._epoch), epoch=self._epoch, window=self._plan.window)
        self.recorder.epoch(self._epoch, score)
        trained = self.recorder.trained
        if not self.recorder.judges:
            log.info("epoch %d/%d: training loss %.4f", self._epoch + 1, self._plan.epochs, trained.loss)
            return
        words = (self._epoch + 1, self._plan.epochs, trained, score, score.count)
        log.info("epoch %d/%d: training %s; held-out %s (%d samples)", *words)
        if self.plateau is not None:
            self.plateau = self.plateau.after(score.loss)
            self.head.updater.factor = self.plateau.factor
        if self._plan.look is not None:
            self._plan.look(path, self._epoch, self.recorder)

    def _save(self, carrier: Carrier, *, last: bool = False) -> None:
        """Let both sides keep what they are, without waiting for anything that is under way."""
        tally = replace(carrier.tally, sent=carrier.tally.sent + 1, under_way=list(carrier.tally.under_way))
        facts = EdgeFacts(
            self._planned,
            *self.session,
            self._epoch,
            self._at.forwarded,
            self._at.applied,
            tally.sent,
            tally.under_way,
            self._alone,
            self.recorder.state(),
            plateau=self.plateau,
        )
        copies = None if self._alone else self.copies
        self._saved_at = self.step
        writer = CheckpointWriter(facts, self.step, self.store, self.journal, copies)
        carrier.save(Saving(self.head.snapshot(), tally.sent, carrier.tally.answered, writer, last))

    def come_back(self, carrier: Carrier, tail: State) -> None:
        """Give the tail that was trained alone to a new session, and go on as it was asked."""
        hand_back(self.job, carrier, tail, self.due)
        self._saved_at = -1  # the new session has no checkpoint yet

    def go_with(self) -> None:
        """Go on with a cloud from where this edge came alone."""
        self._alone = False
        self.job, self.tally = self._planned, Tally()
        self.head = self._make_head(self.job, state=self.head.state())
        self._tell_setting()

    def change(self, carrier: Carrier, change: Change) -> str:
        """Train by another plan from now on: what changes sides goes with its weights and its optimizer's state.

        Returns:
            What was done, in words.

        Raises:
            UsageError: it cannot be, or the cloud will not; all stays as it is.
        """
        job = change.of(self.job, self._graph)
        if self._alone:
            raise UsageError("the edge trains alone; its plan changes when the cloud is back")
        if (most := self._plan.most_stale) is not None and job.stale_it > most:
            raise UsageError(f"K is to be {job.stale_it}; this run was started for {most} at most (--max_stale_it)")
        begun_s = time.perf_counter()
        self.head, nbytes = change_plan(self.head, job, self._graph, self._make_head, carrier, self.due)
        carrier.head = self.head
        self.job = self._planned = job
        self._settle()
        seconds = time.perf_counter() - begun_s
        self.recorder.moved(seconds)
        self._tell_setting()
        words = (
            f"from step {self.step} on: cut behind {job.cut_name}, {job.compress_up} up, {job.compress_down} down, "
            f"K = {job.stale_it}; {nbytes / 1e6:.2f} MB moved, {seconds:.3f} s paused"
        )
        log.info("%s", words)
        return words

    def _settle(self) -> None:
        """With all of the model at the edge, nothing need cross: the other half is here too."""
        if self.plateau is not None:
            self.head.updater.factor = self.plateau.factor
        whole = self.job.cut == (len(self._graph.points) - 1 if self.job.direction == "up" else 0)
        self._carrier_here = self.here(self.head, self.job, self.journal, self.due) if whole and self.here else None

    def _tell_setting(self) -> None:
        self.recorder.setting = {
            "cut": self.job.cut,
            "compress_up": self.job.compress_up,
            "compress_down": self.job.compress_down,
            "stale_it": self.job.stale_it,
            **({"alone": True} if self._alone else {}),
        }
