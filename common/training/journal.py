"""What happened when: the spans of a run's timeline, and the numbers of each step.

A step's stage times count work, not waiting: a thread's CPU time, or the time on a GPU's stream. So the stages of
threads that share a core add up to what the core had to do.
"""

import copy
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from common.training.monitor import LinkMonitor
from common.wire.structs import TailTimes

MAX_SPANS = 50_000
STAGES = ("edge", "uplink", "cloud", "downlink")


@dataclass(frozen=True)
class Span:
    """A piece of work on a track of the timeline."""

    track: str
    name: str
    step: int
    start_s: float
    seconds: float


@dataclass
class StepNumbers:
    """What one training step took."""

    stages_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    bytes_up: int = 0
    bytes_down: int = 0
    recalled: bool = False
    """Whether no activations crossed, because the cloud keeps them."""


class Journal:
    """Written by several threads; `take` hands a finished step's numbers over.

    Args:
        timer: times work on the device of this side (`common.training.timed.busy_timer`).
    """

    def __init__(self, timer: Callable[[], Callable[[], float]]) -> None:
        self.spans: list[Span] = []
        self.clock_offset_s = 0.0
        """The tail's clock minus this side's, as well as the handshake could tell; for the picture only."""
        self.monitor: LinkMonitor | None = None
        """Told how long messages took, where there is a link."""
        self.window: Callable[[str], AbstractContextManager[object]] = lambda _stage: nullcontext()
        """Told of each stage while it lasts; see `common.training.metered`."""
        self._timer = timer
        self._steps: defaultdict[int, StepNumbers] = defaultdict(StepNumbers)
        self._lock = threading.Lock()

    @contextmanager
    def work(self, name: str, step: int, *, training: bool = True) -> Iterator[None]:
        """Times work of this side."""
        with self.window(name if training else "evaluate"):
            start, stop = time.perf_counter(), self._timer()
            yield
            busy = stop()
        self._add_span(f"edge {name}", name, step, start, time.perf_counter() - start)
        if training:
            self.add(step, "edge", busy)

    def received(
        self, step: int, start_s: float, seconds: float, nbytes: int, *, training: bool, timed_bytes: int = 0
    ) -> None:
        """An answer has come down; ``timed_bytes`` of it in these seconds."""
        self._add_span("downlink", "receive", step, start_s, seconds)
        if self.monitor is not None:
            self.monitor.transferred("down", timed_bytes, seconds)
        if training:
            self.add(step, "downlink", seconds)
            self.count(step, down=nbytes)

    def tail_worked(self, step: int, times: TailTimes, *, training: bool) -> None:
        """What the tail's side says about a step."""
        if self.monitor is not None:
            self.monitor.transferred("up", times.timed_bytes, times.receive[1])
        for name in ("receive", "decode", "compute", "encode"):
            start, seconds = getattr(times, name)
            track = "uplink" if name == "receive" else f"cloud {name}"
            if start:
                self._add_span(track, name, step, start - self.clock_offset_s, seconds)
            if training:
                self.add(step, "uplink" if name == "receive" else "cloud", seconds)

    def add(self, step: int, stage: str, seconds: float) -> None:
        """Count work into a step's stage."""
        with self._lock:
            self._steps[step].stages_s[stage] += seconds

    def count(self, step: int, *, up: int = 0, down: int = 0) -> None:
        """Count bytes into a step."""
        with self._lock:
            self._steps[step].bytes_up += up
            self._steps[step].bytes_down += down

    def recalled(self, step: int) -> None:
        """No activations crossed in a step."""
        with self._lock:
            self._steps[step].recalled = True

    @property
    def up_bps(self) -> float | None:
        """Rate of the uplink, where it is known."""
        return None if self.monitor is None else self.monitor.rate_bps("up")

    def take(self, step: int) -> StepNumbers:
        """The numbers of a step that is over."""
        with self._lock:
            return self._steps.pop(step)

    def under_way(self, steps: Iterable[int]) -> dict[int, StepNumbers]:
        """The numbers so far of steps that are not over."""
        with self._lock:
            return {step: copy.deepcopy(self._steps[step]) for step in steps}

    def put(self, numbers: Mapping[int, StepNumbers]) -> None:
        """Go on from what `under_way` gave; whatever else is not over is forgotten."""
        with self._lock:
            self._steps.clear()
            self._steps.update(numbers)

    def _add_span(self, track: str, name: str, step: int, start_s: float, seconds: float) -> None:
        if len(self.spans) < MAX_SPANS:
            self.spans.append(Span(track, name, step, start_s, seconds))
