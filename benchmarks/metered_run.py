"""What does it cost a training run to be metered? Its steps in short blocks, with and without, by turns."""

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from common.training.in_process import InProcess
from common.training.journal import Journal
from common.training.loop import Path as StepPath
from common.training.loop import train_steps
from common.training.metered import Metered, metered
from common.training.prepare import make_head, make_tail
from common.training.recorder import Recorder
from common.training.schedule import Schedule
from common.training.station import Station
from common.training.timed import busy_timer
from discriminative.options import BaseOptions
from discriminative.recipe import objective, plan_job

_BLOCK_STEPS = 20
_CALLS = 500


@dataclass(frozen=True)
class RunCost:
    """What metering takes of a run's time."""

    step_ms: float
    """CPU time of a step that is not metered."""
    samplers_percent: float
    """CPU time of the sampling threads: of a core."""
    windows_percent: float
    """Time of a step's windows and of its row's energy: of a step."""
    in_all_percent: float
    """CPU time that the process takes more for the same steps while it is metered: median over the rounds."""
    waking_percent: float
    """The same beside a thread that wakes as often and does nothing: what this machine takes for waking one."""
    chance_percent: float
    """The same of steps beside nothing."""


def run_cost(interval_ms: float, rounds: int) -> RunCost:
    """Train resnet20 with head and tail in this process, on one thread.

    Args:
        interval_ms: between two samples of energy; a model's, which needs no sensor.
        rounds: of four blocks of steps, of which one is metered.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder), {}, 1000) as recorder:
        run = _Run(recorder)
        run.block()
        windows = run.windows / _BLOCK_STEPS
        beside: dict[str, Callable[[], AbstractContextManager[Metered | None]]] = {
            "nothing": nullcontext,
            "nothing again": nullcontext,
            "a thread that wakes": lambda: _waking(interval_ms / 1e3),
            "a meter": lambda: metered("auto", "5,15", interval_ms),
        }
        times = {kind: list[float]() for kind in beside}
        shares = list[float]()
        for order in itertools.islice(itertools.cycle(itertools.permutations(beside)), rounds):
            for kind in order:
                with beside[kind]() as meter:
                    times[kind].append(run.block(meter))
                    if meter is not None:
                        shares.append(meter.end(0.0)["metering_share"])
        step_s = statistics.median(times["nothing"]) / _BLOCK_STEPS
        with metered("auto", "5,15", interval_ms) as meter:
            window_s, row_s = _seconds(meter)
    more = [
        _percent_more(times[kind], times["nothing"]) for kind in ("a meter", "a thread that wakes", "nothing again")
    ]
    return RunCost(
        1e3 * step_s,
        100 * statistics.mean(shares),
        100 * (windows * window_s + row_s) / step_s,
        *more,
    )


class _Run:
    """A run that trains some steps at a time."""

    def __init__(self, recorder: Recorder) -> None:
        options = BaseOptions(dataset="digits", split_index=4, stale_it=3, threads=1, lr=0.01)
        plan = plan_job(options)
        graph = plan.prepared.graph
        timer = busy_timer("cpu")
        self._head = make_head(plan.prepared, plan.job, device="cpu", taylor=False)
        station = Station(graph, plan.job, partial(make_tail, plan.prepared, device="cpu", objective=objective), timer)
        self._batches, self._recorder = plan.train, recorder
        self._journal = Journal(timer)
        self._carrier = InProcess(self._head, station, self._journal)
        self._blocks = 0
        self.windows = 0

    def block(self, meter: Metered | None = None) -> float:
        """Train a block; its CPU time."""
        self._recorder.metered = meter or metered("none")
        self._journal.window = meter.window if meter else self._count
        self._recorder.epoch_begins()
        before_s = time.process_time()
        train_steps(
            StepPath(self._head, self._carrier, self._journal),
            itertools.islice(self._batches.epoch(0), _BLOCK_STEPS),
            _BLOCK_STEPS,
            epoch=0,
            first_step=self._blocks * _BLOCK_STEPS,
            schedule=Schedule.FIXED,
            stale_it=3,
            on_step=self._recorder.step,
        )
        self._blocks += 1
        return time.process_time() - before_s

    def _count(self, stage: str) -> AbstractContextManager[None]:
        self.windows += 1
        return nullcontext()


@contextmanager
def _waking(interval_s: float) -> Iterator[None]:
    ending = threading.Event()

    def wake() -> None:
        while not ending.wait(interval_s):
            pass

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _seconds(meter: Metered) -> tuple[float, float]:
    """Of one window, and of the energy of a row."""
    begun_s = time.perf_counter()
    for _ in range(_CALLS):
        with meter.window("forward"):
            pass
    between_s = time.perf_counter()
    for _ in range(_CALLS):
        meter.step_mj()
    return (between_s - begun_s) / _CALLS, (time.perf_counter() - between_s) / _CALLS


def _percent_more(some: Sequence[float], others: Sequence[float]) -> float:
    return 100 * (statistics.median(a / b for a, b in zip(some, others, strict=True)) - 1)
