"""Writes a run's folder while it trains: steps, epochs, timeline, summary."""

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from safetensors.torch import save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from common.records import CsvTable, environment, finite, write_json
from common.training.journal import STAGES, Span
from common.training.loop import StepDone
from common.training.score import Score
from common.training.trace_file import write_trace

log = logging.getLogger(__name__)

WARM_UP_STEPS = 5


@dataclass
class _Means:
    """Sums over steps, for their means."""

    steps: int = 0
    seconds: float = 0.0
    stages_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, done: StepDone, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        for stage, value in done.numbers.stages_s.items():
            self.stages_s[stage] += value


class Recorder:
    """The run folder of one run; a context manager.

    Args:
        folder: the run's folder, made already.
        config: what the run was asked, for ``config.json``.
        report_freq: every how many steps TensorBoard gets a point.
    """

    def __init__(self, folder: Path, config: object, report_freq: int) -> None:
        self.folder = folder
        self._report_freq = report_freq
        write_json(folder / "config.json", config)
        write_json(folder / "environment.json", environment())
        self._metrics: IO[str] = (folder / "metrics.jsonl").open("w")
        self._epochs = CsvTable(folder / "epochs.csv")
        self._board = SummaryWriter(str(folder))
        self._steady, self._all = _Means(), _Means()
        self._bytes_up = self._bytes_down = self._samples = 0
        self._diverged = False
        self._started_s = time.perf_counter()
        self._before_s = self._started_s
        self.last_epoch: dict[str, float] = {}
        self.trained = Score()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        self._board.close()

    def epoch_begins(self) -> None:
        """The time of the first step counts from here, not from the evaluation before."""
        self._before_s = time.perf_counter()
        self.trained = Score()

    def step(self, done: StepDone) -> None:
        """A training step is over."""
        seconds, self._before_s = done.ended_s - self._before_s, done.ended_s
        numbers = done.numbers
        if not math.isfinite(done.loss) and not self._diverged:
            self._diverged = True
            log.warning("step %d: the loss is %s: training has diverged; a smaller --lr helps", done.step, done.loss)
        self.trained.add(done.loss, done.correct, done.count)
        self._all.add(done, seconds)
        if done.steady and done.step >= WARM_UP_STEPS:
            self._steady.add(done, seconds)
        self._bytes_up += numbers.bytes_up
        self._bytes_down += numbers.bytes_down
        self._samples += done.count
        row = {
            "step": done.step,
            "epoch": done.epoch,
            "loss": done.loss,
            "correct": done.correct,
            "count": done.count,
            "staleness": done.staleness,
            "bytes_up": numbers.bytes_up,
            "bytes_down": numbers.bytes_down,
            "step_s": seconds,
            "wall_s": done.ended_s - self._started_s,
            **{f"{stage}_s": value for stage, value in numbers.stages_s.items()},
        }
        self._metrics.write(json.dumps(finite(row)) + "\n")
        if done.step % self._report_freq == 0:
            for name in ("loss", "step_s", "staleness", *(f"{stage}_s" for stage in STAGES)):
                self._board.add_scalar(f"step/{name}", row[name], done.step)

    def epoch(self, number: int, score: Score) -> None:
        """An epoch and the evaluation behind it are over."""
        self.last_epoch = {
            "epoch": number,
            "wall_s": round(time.perf_counter() - self._started_s, 3),
            "train_loss": self.trained.loss,
            "train_accuracy": self.trained.accuracy,
            "loss": score.loss,
            "accuracy": score.accuracy,
        }
        self._epochs.add(self.last_epoch)
        self._metrics.flush()
        for name in ("train_loss", "train_accuracy", "loss", "accuracy"):
            self._board.add_scalar(f"epoch/{name}", self.last_epoch[name], number)

    def finish(self, spans: list[Span], head: nn.Module, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write timeline, head and summary; returns the summary.

        ``facts`` are what only the caller knows, such as cut, codecs and digest.
        """
        self._metrics.flush()
        write_trace(self.folder / "trace.json", spans)
        state = {name: value.contiguous() for name, value in head.state_dict().items()}
        save_file(state, self.folder / "head.safetensors")
        means = self._steady if self._steady.steps else self._all
        steps = max(means.steps, 1)
        stages = {stage: value / steps for stage, value in means.stages_s.items()}
        step_time_s, limit_s = means.seconds / steps, max(stages.values())
        summary = {
            "steps": self._all.steps,
            "samples": self._samples,
            "epochs": int(self.last_epoch.get("epoch", -1)) + 1,
            "accuracy": self.last_epoch.get("accuracy"),
            "loss": self.last_epoch.get("loss"),
            "train_loss": self.last_epoch.get("train_loss"),
            "step_time_s": step_time_s,
            "stages_s": stages,
            "limit_s": limit_s,
            "limit_ratio": step_time_s / limit_s if limit_s else None,
            "steady_steps": self._steady.steps,
            "training_s": self._all.seconds,
            "bytes_up_per_step": self._bytes_up / max(self._all.steps, 1),
            "bytes_down_per_step": self._bytes_down / max(self._all.steps, 1),
            "faults": 0,
            "resumes": 0,
            "wall_s": time.perf_counter() - self._started_s,
            "edge_peak_memory_bytes": peak_memory_bytes(),
            **facts,
        }
        write_json(self.folder / "summary.json", summary)
        return summary


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
