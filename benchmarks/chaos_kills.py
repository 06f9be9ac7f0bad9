"""Runs whose processes are killed at random steps (SIGKILL: nothing is tidied up), and started again."""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, TypeAlias

from benchmarks.chaos_runs import HOST, RECONNECT_S, Images, Outcome, Setting
from common.errors import TandemError
from common.wire.certificates import create

Side: TypeAlias = Literal["client", "server", "both"]

_STEP_S = 120.0
"""A step, or a program's start, takes no longer."""
_LOOK_S = 0.01
_ROOT = Path(__file__).resolve().parent.parent


class Program:
    """A program of this project, started, killed and started again.

    Args:
        module: its name.
        log: gets what it says.
    """

    def __init__(self, module: str, log: Path) -> None:
        self._module, self._log = module, log
        self._process: subprocess.Popen[str] | None = None

    def start(self, flags: Sequence[str]) -> None:
        """Start it."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def runs(self) -> bool:
        """Whether it has been started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int:
        """How it has ended; 0 where it was killed."""
        return (self._process.poll() or 0) if self._process else 0

    def first_line(self) -> str:
        """The first line that it prints.

        Raises:
            TandemError: it has ended before.
        """
        output: IO[str] | None = self._process.stdout if self._process else None
        line = output.readline() if output else ""
        if not line:
            raise TandemError(f"{self._module} has ended: {self.last_words()}")
        return line

    def last_words(self) -> str:
        """The last line of its log."""
        return (self._log.read_text().splitlines() or ["it said nothing"])[-1]

    def kill(self) -> None:
        """Kill it at once."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@dataclass
class Killed:
    """What a run with kills has come to."""

    outcome: Outcome
    kills: int
    seconds: float


@dataclass
class Victims:
    """A server and a client whose processes do not live long; a context manager.

    Args:
        images: to train on.
        setting: of the run.
        folder: for both.
        epochs: of the run.
        rng: chooses.
        sides: of whom one is chosen each time.
    """

    images: Images
    setting: Setting
    folder: Path
    epochs: int
    rng: random.Random
    sides: tuple[Side, ...] = ("client", "server", "both")
    kills: int = 0
    _ports: tuple[str, str] = ("0", "0")
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Victims":
        self.folder.mkdir(parents=True)
        if self.setting.tls:
            create(self.folder / "security", [HOST], 100, ())
        self._server = Program("discriminative.server", self.folder / "server.log")
        self._client = Program("discriminative.client", self.folder / "client.log")
        self._stack.callback(self._server.kill)
        self._stack.callback(self._client.kill)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, most: int) -> Killed:
        """Train, and kill up to ``most`` times.

        Raises:
            TandemError: a program has failed.
        """
        begun_s = time.monotonic()
        steps = self.epochs * self.images.steps
        self._start_server()
        self._start_client()
        # At the last step the run is about to evaluate, and to end.
        for step in sorted(self.rng.sample(range(1, steps + 1), most)):
            self._follow(lambda step=step: self._steps() >= step and self._can_go_on())  # type: ignore[misc]
            threading.Event().wait(self.rng.uniform(0, 0.2))
            if not self._client.runs:
                break
            self._kill()
        self._follow(lambda: False)
        if self._client.exit_code:
            raise TandemError(f"the client has ended with {self._client.exit_code}: {self._client.last_words()}")
        return Killed(Outcome.read(self._run_folder()), self.kills, time.monotonic() - begun_s)

    def _kill(self) -> None:
        """One side or both; what was killed is started again."""
        side = self.rng.choice(self.sides)
        whom = [self._client] * (side != "server") + [self._server] * (side != "client")
        for program in whom:
            program.kill()
        self.kills += len(whom)
        if self._server in whom:
            self._start_server()
        if self._client in whom and not (self._run_folder() / "summary.json").exists():
            self._start_client("--resume", str(self._run_folder()))

    def _start_server(self) -> None:
        port, hyperport = self._ports
        flags = ["--port", port, "--hyperport", hyperport, "--run_dir", str(self.folder / "server"), "--threads", "1"]
        self._server.start([*flags, *self._security("security")])
        line = self._server.first_line()
        found = re.search(r"port (\d+), hyperport (\d+)", line)
        if found is None:
            raise TandemError(f"the server says {line!r}")
        self._ports = (found[1], found[2])

    def _start_client(self, *more: str) -> None:
        values = self.images.options(self.setting, self.folder / "client", self.epochs)
        flags = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        port, hyperport = self._ports
        where = ["--ip", HOST, "--port", port, "--hyperport", hyperport, "--reconnect_s", str(RECONNECT_S)]
        self._client.start([*flags, *where, *self._security("security/edge"), *more])

    def _security(self, folder: str) -> list[str]:
        return ["--security", str(self.folder / folder)] if self.setting.tls else []

    def _run_folder(self) -> Path:
        return next(each.parent for each in (self.folder / "client").glob("*/config.json"))

    def _steps(self) -> int:
        """How many the run has recorded."""
        return sum(path.read_bytes().count(b"\n") for path in (self.folder / "client").glob("*/metrics.jsonl"))

    def _can_go_on(self) -> bool:
        """Whether both sides have a checkpoint on disk; before, there is nothing to go on from."""
        sides = ("client/*/checkpoints/edge/*/state.json", "server/*/checkpoints/*/state.json")
        return all(any(self.folder.glob(side)) for side in sides)

    def _follow(self, until: Callable[[], bool]) -> None:
        """Wait until something is so, or the client has ended.

        Raises:
            TandemError: nothing has happened for too long, or the server has ended.
        """
        seen, moved_s, pause = -1, time.monotonic(), threading.Event()
        while self._client.runs and not until():
            if not self._server.runs:
                raise TandemError(f"the server has ended: {self._server.last_words()}")
            if (steps := self._steps()) != seen:
                seen, moved_s = steps, time.monotonic()
            elif time.monotonic() - moved_s > _STEP_S:
                raise TandemError(f"nothing happens at step {seen}; the client: {self._client.last_words()}")
            pause.wait(_LOOK_S)
