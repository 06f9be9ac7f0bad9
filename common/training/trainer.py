"""A whole run from the head's side: epochs of training, each followed by an evaluation, with its records."""

import logging
import sys
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from common.datasets.batches import Batches
from common.training.digest import combined_digest, parameter_digests
from common.training.loop import Path, StepDone, evaluate, train_epoch
from common.training.recorder import Recorder
from common.training.schedule import Schedule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How a run trains."""

    epochs: int
    schedule: Schedule
    stale_it: int
    window: int
    """Batches under way in an evaluation."""


def run_training(
    path: Path, train: Batches, test: Batches, plan: Plan, recorder: Recorder, facts: dict[str, Any]
) -> dict[str, Any]:
    """Train for ``plan.epochs`` epochs, evaluate behind each, and write the run folder; returns the summary."""
    step = 0
    for epoch in range(plan.epochs):
        with tqdm(
            total=len(train),
            desc=f"epoch {epoch + 1}/{plan.epochs}",
            unit="step",
            disable=not sys.stderr.isatty(),
        ) as bar:

            def on_step(done: StepDone, bar: Any = bar) -> None:
                recorder.step(done)
                bar.update()
                bar.set_postfix(loss=f"{recorder.trained.loss:.4f}", refresh=False)

            recorder.epoch_begins()
            train_epoch(
                path,
                train.epoch(epoch),
                len(train),
                epoch=epoch,
                first_step=step,
                schedule=plan.schedule,
                stale_it=plan.stale_it,
                on_step=on_step,
            )
        step += len(train)
        score = evaluate(path, test.epoch(epoch), epoch=epoch, window=plan.window)
        recorder.epoch(epoch, score)
        log.info(
            "epoch %d/%d: training loss %.4f, accuracy %.2f %%; held-out loss %.4f, accuracy %.2f %% (%d images)",
            epoch + 1,
            plan.epochs,
            recorder.trained.loss,
            100 * recorder.trained.accuracy,
            score.loss,
            100 * score.accuracy,
            score.count,
        )
    digest = combined_digest(parameter_digests(path.head.part), path.carrier.finish())
    return recorder.finish(path.journal.spans, path.head.part, {**facts, "parameters_digest": digest})
