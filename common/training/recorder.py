"""Writes a run's folder while it trains: steps, epochs, timeline, summary."""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.torch import save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from common.metering.gauges import own_peak
from common.metering.meter import NullMeter
from common.planning.log import Context
from common.records import CsvTable, environment, finite, replace_text, write_json
from common.training.journal import STAGES, Span
from common.training.loop import StepDone
from common.training.metered import Metered
from common.training.score import UNCOUNTED, Score
from common.training.trace_file import write_trace
from common.training.weights import WeightsLog

log = logging.getLogger(__name__)

WARM_UP_STEPS = 5
_OWN = ("epoch", "wall_s", "train_loss", "train_accuracy", "loss", "accuracy")


class _Means(msgspec.Struct):
    """Sums over steps, for their means."""

    steps: int = 0
    seconds: float = 0.0
    stages_s: dict[str, float] = msgspec.field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, done: StepDone, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        for stage, value in done.numbers.stages_s.items():
            self.stages_s[stage] += value


class Recorded(msgspec.Struct):
    """What a run has recorded so far, in sums; part of each checkpoint."""

    steady: _Means = msgspec.field(default_factory=_Means)
    all: _Means = msgspec.field(default_factory=_Means)
    bytes_up: int = 0
    bytes_down: int = 0
    samples: int = 0
    wall_s: float = 0.0
    """Since the run began, pauses left out."""
    last_epoch: dict[str, float | None] = msgspec.field(default_factory=dict)
    trained: tuple[float | None, int, int] = (0.0, 0, 0)
    """Of the epoch that is not over: sum of losses (None where training has diverged), right answers, samples."""
    alone: int = 0
    """Steps without the cloud."""
    moves: int = 0
    moving_s: float = 0.0
    energy_mj: float | None = None
    """Of all since the run began, as `wall_s`; None of a run that is not metered."""
    recalled: int = 0
    """Steps whose activations the cloud had kept."""
    recalled_bytes_up: int = 0
    steps_mj: float = 0.0
    """Of the steps' rows."""


class Recorder:
    """The run folder of one run; a context manager.

    Args:
        folder: the run's folder, made already; one that has records is gone on with.
        config: what the run was asked, for ``config.json``.
        report_freq: every how many steps TensorBoard gets a point.
    """

    def __init__(self, folder: Path, config: object, report_freq: int) -> None:
        self.folder = folder
        self._report_freq = report_freq
        if not (folder / "config.json").exists():
            write_json(folder / "config.json", config)
            write_json(folder / "environment.json", environment())
        self._metrics = _rows(folder / "metrics.jsonl")
        self._epochs = CsvTable(folder / "epochs.csv")
        self._board = SummaryWriter(str(folder))
        self._sums = Recorded()
        self._diverged = False
        self._started_s = time.perf_counter()
        self._before_s = self._started_s
        self.trained = Score()
        self.faults = self.resumes = 0
        """Connections that broke, and how often training went on from a checkpoint."""
        self._weights: WeightsLog | None = None
        self.setting: dict[str, Any] = {}
        """What of the plan may change from step to step, for the steps' rows."""
        self.link: Callable[[], Context] | None = None
        """What is known of the link now, of a run that has one."""
        self.judges = True
        """Whether what is held out is judged here; not by a party whose labels are elsewhere."""
        self.measures: Callable[[], Mapping[str, float | None]] = dict
        """What is measured behind each evaluation besides loss and accuracy, for the epoch's row and the summary."""
        self.metered = Metered(NullMeter(), None)
        """What the run takes of its machine."""

    @property
    def last_epoch(self) -> dict[str, float | None]:
        """The row of the last epoch that is over."""
        return self._sums.last_epoch

    def state(self) -> Recorded:
        """The sums of this moment."""
        trained = (self.trained.loss_sum, self.trained.correct, self.trained.count)
        energy_mj = self.metered.energy_mj()
        sums = msgspec.structs.replace(self._sums, wall_s=self._wall_s(), trained=trained, energy_mj=energy_mj)
        return msgspec.convert(msgspec.to_builtins(sums), Recorded)

    def rewind(self, state: Recorded, step: int, epoch: int) -> None:
        """Go on from the sums of a checkpoint: rows of ``step``, ``epoch`` and what is behind them are dropped."""
        self._sums = state
        loss_sum, correct, count = state.trained
        self.trained = Score(math.nan if loss_sum is None else loss_sum, correct, count)
        self._started_s = time.perf_counter() - state.wall_s
        self.metered.rewind(state.energy_mj)
        self._metrics.close()
        path = self.folder / "metrics.jsonl"
        rows = path.read_text().splitlines(keepends=True)
        replace_text(path, "".join(row for row in rows if row.endswith("\n") and json.loads(row)["step"] < step))
        self._metrics = _rows(path)
        self._epochs.keep(epoch)
        self.epoch_goes_on()

    def _link(self) -> dict[str, float]:
        """The link now, as far as it is known."""
        known = {} if self.link is None else asdict(self.link())
        return {name: value for name, value in known.items() if value is not None}

    def _recalled(self) -> dict[str, float]:
        """What still went up in steps whose activations the cloud had kept, in a run that has any."""
        count = self._sums.recalled
        if not count:
            return {}
        return {"recalled_steps": count, "bytes_up_per_recalled_step": self._sums.recalled_bytes_up / count}

    def _wall_s(self) -> float:
        return time.perf_counter() - self._started_s

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()
        self._board.close()

    def epoch_begins(self) -> None:
        """The scores of an epoch begin anew."""
        self.trained = Score()
        self.epoch_goes_on()

    def epoch_goes_on(self) -> None:
        """The time of the next step counts from here, not from what was done before (an evaluation, say)."""
        self._before_s = time.perf_counter()
        self.metered.restart()

    def moved(self, seconds: float) -> None:
        """The cut has been moved, and nothing was trained meanwhile."""
        self._sums.moves += 1
        self._sums.moving_s += seconds
        self.epoch_goes_on()

    def step(self, done: StepDone) -> None:
        """A training step is over."""
        seconds, self._before_s = done.ended_s - self._before_s, done.ended_s
        numbers = done.numbers
        if not math.isfinite(done.loss) and not self._diverged:
            self._diverged = True
            log.warning("step %d: the loss is %s: training has diverged; a smaller --lr helps", done.step, done.loss)
        self.trained.add(done.loss, done.correct, done.count)
        self._sums.all.add(done, seconds)
        if done.steady and done.step >= WARM_UP_STEPS:
            self._sums.steady.add(done, seconds)
        self._sums.bytes_up += numbers.bytes_up
        self._sums.bytes_down += numbers.bytes_down
        self._sums.samples += done.count
        if numbers.recalled:
            self._sums.recalled += 1
            self._sums.recalled_bytes_up += numbers.bytes_up
        self._sums.alone += bool(self.setting.get("alone"))
        step_mj = self.metered.step_mj()
        self._sums.steps_mj += step_mj or 0.0
        row = {
            "step": done.step,
            "epoch": done.epoch,
            "loss": done.loss,
            "correct": None if done.correct == UNCOUNTED else done.correct,
            "count": done.count,
            "staleness": done.staleness,
            "bytes_up": numbers.bytes_up,
            "bytes_down": numbers.bytes_down,
            "step_s": seconds,
            "wall_s": done.ended_s - self._started_s,
            **({"recalled": True} if numbers.recalled else {}),
            **({} if step_mj is None else {"energy_mj": step_mj}),
            **self._link(),
            **self.setting,
            **{f"{stage}_s": value for stage, value in numbers.stages_s.items()},
        }
        self._metrics.write(json.dumps(finite(row)) + "\n")
        if done.step % self._report_freq == 0:
            for name in ("loss", "step_s", "staleness", *(f"{stage}_s" for stage in STAGES)):
                self._board.add_scalar(f"step/{name}", row[name], done.step)

    def epoch(self, number: int, score: Score) -> None:
        """An epoch and the evaluation behind it are over."""
        self._sums.last_epoch = {
            "epoch": number,
            "wall_s": round(self._wall_s(), 3),
            "train_loss": self.trained.loss,
            "train_accuracy": self.trained.accuracy,
            "loss": score.loss if self.judges else None,
            "accuracy": score.accuracy if self.judges else None,
            **self.measures(),
        }
        self._epochs.add(self.last_epoch)
        self._metrics.flush()
        for name, value in self.last_epoch.items():
            if name not in ("epoch", "wall_s") and value is not None:
                self._board.add_scalar(f"epoch/{name}", value, number)
        if self._weights is not None:
            self._weights.epoch(number, self._board)

    def watch(self, weights: WeightsLog) -> None:
        """Take histograms of the weights behind each epoch from now on."""
        self._weights = weights

    def picture(self, name: str, image: npt.NDArray[np.uint8], epoch: int) -> None:
        """Show an image (H, W, 3) in TensorBoard."""
        self._board.add_image(name, image, epoch, dataformats="HWC")

    def finish(
        self, spans: list[Span], part: nn.Module, facts: Mapping[str, Any], *, name: str = "head"
    ) -> dict[str, Any]:
        """Write timeline, the edge's part and summary; returns the summary.

        ``facts`` are what only the caller knows, such as cut, codecs and digest; the part is called ``name``.
        """
        self._metrics.flush()
        write_trace(self.folder / "trace.json", spans)
        state = {name: value.contiguous() for name, value in part.state_dict().items()}
        save_file(state, self.folder / f"{name}.safetensors")
        means = self._sums.steady if self._sums.steady.steps else self._sums.all
        steps = max(means.steps, 1)
        stages = {stage: value / steps for stage, value in means.stages_s.items()}
        step_time_s, limit_s = means.seconds / steps, max(stages.values())
        summary = {
            "steps": self._sums.all.steps,
            "samples": self._sums.samples,
            "epochs": int(self.last_epoch.get("epoch") or 0) + bool(self.last_epoch),
            "accuracy": self.last_epoch.get("accuracy"),
            "loss": self.last_epoch.get("loss"),
            "train_loss": self.last_epoch.get("train_loss"),
            **{name: value for name, value in self.last_epoch.items() if name not in _OWN},
            "step_time_s": step_time_s,
            "stages_s": stages,
            "limit_s": limit_s,
            "limit_ratio": step_time_s / limit_s if limit_s else None,
            "steady_steps": self._sums.steady.steps,
            "training_s": self._sums.all.seconds,
            "bytes_up_per_step": self._sums.bytes_up / max(self._sums.all.steps, 1),
            "bytes_down_per_step": self._sums.bytes_down / max(self._sums.all.steps, 1),
            **self._recalled(),
            "faults": self.faults,
            "resumes": self.resumes,
            "alone_steps": self._sums.alone,
            "moves": self._sums.moves,
            "moving_s": self._sums.moving_s,
            "wall_s": self._wall_s(),
            "edge_peak_memory_bytes": own_peak(),
            **self.metered.end(self._sums.steps_mj / max(self._sums.all.steps, 1)),
            **facts,
            **self._link(),
        }
        write_json(self.folder / "summary.json", summary)
        return summary


def _rows(path: Path) -> IO[str]:
    """A file of rows, each written at once: whoever goes on from a checkpoint needs those of the steps before it."""
    return path.open("a", buffering=1)
