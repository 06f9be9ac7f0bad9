"""The head's side of a run: an epoch of training by the schedule, and an evaluation over the same path."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from common.datasets.batches import Batch
from common.training.carrier import Carrier
from common.training.exchange import Answer
from common.training.half import Half
from common.training.journal import Journal, StepNumbers
from common.training.schedule import Action, Schedule, next_action
from common.training.score import Score


@dataclass(frozen=True)
class StepDone:
    """A training step whose gradient has been applied."""

    step: int
    epoch: int
    loss: float
    """Mean over the step's samples."""
    correct: int
    count: int
    staleness: int
    """Forwards that were done between this step's forward and its backward."""
    numbers: StepNumbers
    ended_s: float
    """`time.perf_counter` behind the update."""
    steady: bool
    """Whether a forward went with this backward and another backward was before it: neither fill nor drain."""


@dataclass(frozen=True)
class Path:
    """The edge's half and what connects it to the other one."""

    head: Half
    carrier: Carrier
    journal: Journal


@dataclass
class Progress:
    """How far an epoch is."""

    forwarded: int = 0
    """Forwards done."""
    applied: int = 0
    """Gradients applied."""


def train_steps(
    path: Path,
    batches: Iterable[Batch],
    total: int,
    *,
    epoch: int,
    first_step: int,
    schedule: Schedule,
    stale_it: int,
    on_step: Callable[[StepDone], None],
    at: Progress | None = None,
    before: Callable[[int], bool] | None = None,
) -> None:
    """Train on an epoch of ``total`` batches, or the rest of it; every gradient has been applied when this returns.

    Args:
        path: where the steps go.
        batches: the epoch's batches that were not forwarded.
        total: how many the epoch has.
        epoch: its number, from 0.
        first_step: number of the epoch's first step; steps count through the run.
        schedule: when gradients are applied.
        stale_it: staleness bound K.
        on_step: told of each finished step.
        at: how far the epoch is, kept up to date; from its beginning where it is not given.
        before: asked before each forward, with the number of its step; where it says yes, there are no more forwards.
    """
    head, carrier, journal = path.head, path.carrier, path.journal
    at = at or Progress()
    source = iter(batches)
    begun, end = at.applied, total
    while (
        action := next_action(schedule, stale_it, end, at.forwarded, at.applied, at.applied + carrier.arrived())
    ) is not Action.DONE:
        if action is Action.FORWARD:
            step = first_step + at.forwarded
            if before and before(step):
                end = at.forwarded
                continue
            with journal.work("load", step):
                batch = next(source)
            with journal.work("forward", step):
                upload = head.forward(step, epoch, (batch.inputs,), batch.labels, batch.ids)
            carrier.submit(upload)
            at.forwarded += 1
        else:
            with journal.window("wait"):
                came = carrier.collect()
            with journal.work("backward", came.step):
                answer = head.complete(came)
            if head.replies:
                carrier.reply(answer)
            steady = begun < at.applied < total - stale_it and end == total
            at.applied += 1
            on_step(_done(answer, epoch, at.forwarded - at.applied, journal, steady))


def evaluate(path: Path, batches: Iterable[Batch], *, epoch: int, window: int) -> Score:
    """Loss and accuracy over all ``batches``, through the same codecs and connection as training.

    Args:
        path: where the batches go.
        batches: the validation set.
        epoch: number of the epoch behind which this is.
        window: how many batches may be under way.
    """
    score, under_way = Score(), 0

    def collect() -> None:
        answer = path.head.complete(path.carrier.collect())
        score.add(answer.loss, answer.correct, answer.count)

    for number, batch in enumerate(batches):
        with path.journal.work("evaluate", number, training=False):
            upload = path.head.forward(number, epoch, (batch.inputs,), batch.labels, batch.ids, training=False)
        path.carrier.submit(upload)
        under_way += 1
        if under_way > window:
            collect()
            under_way -= 1
    for _ in range(under_way):
        collect()
    return score


def _done(answer: Answer, epoch: int, staleness: int, journal: Journal, steady: bool) -> StepDone:
    return StepDone(
        answer.step,
        epoch,
        answer.loss,
        answer.correct,
        answer.count,
        staleness,
        journal.take(answer.step),
        time.perf_counter(),
        steady,
    )
