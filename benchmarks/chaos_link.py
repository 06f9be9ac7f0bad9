"""Runs over a link that is broken at random moments, or stands still for a while; server and client in this process."""

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from torch import Tensor
from tqdm import TMonitor

from benchmarks.chaos_runs import HOST, Images, Outcome, Setting, client_options
from common.errors import TandemError
from common.link.contexts import LinkContext
from common.link.emulate import Link, Route
from common.training import heartbeat
from common.training.opening import Recipe
from common.training.serve import Server
from common.wire.certificates import create
from common.wire.security import client_security, server_security
from discriminative.recipe import WORKLOAD, make_recipe, plan_job
from discriminative.train import train_with_server

CONTEXT = LinkContext("chaos", 60, 60, 4)
"""So slow that frames of some hundred kilobytes are under way most of the time."""
_HEELS = 0.25
"""Share of the faults that follow another one at once: they hit what connects again."""
_HEELS_S = 0.05
_END_S = 10.0
_NOTICE_S = 60.0
_LOOK_S = 0.01
_HEARTBEAT = logging.getLogger(heartbeat.__name__)


class Storm:
    """Breaks all connections of a link at random moments, in a thread; a context manager.

    Args:
        link: whose.
        rng: chooses the moments.
        interval_s: mean time between two faults.
        most: faults after which it is over.
    """

    def __init__(self, link: Link, rng: random.Random, interval_s: float, most: int) -> None:
        self._link, self._rng, self._interval_s, self._most = link, rng, interval_s, most
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._blow, name="storm")
        self.faults = 0
        """Those that have broken a connection at least."""

    def __enter__(self) -> "Storm":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _blow(self) -> None:
        while self.faults < self._most and not self._over.wait(self._pause_s()):
            self.faults += self._link.sever() > 0

    def _pause_s(self) -> float:
        if self._rng.random() < _HEELS:
            return self._rng.uniform(0, _HEELS_S)
        return self._rng.expovariate(1 / self._interval_s)


class Standstill:
    """Lets a link stand still once in the midst of a run, until its client has noticed, and then moves it on.

    Args:
        place: whose link.
        after: updates of the server before that.
        longer_s: how long it still stands when the client has noticed.
    """

    def __init__(self, place: "Place", after: int, longer_s: float) -> None:
        self._place, self._after, self._longer_s = place, after, longer_s
        self._over, self._noticed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._stand, name="standstill")
        self.noticed_s = self.recovered_s = 0.0
        """From standing still until the client took its connection for lost; from moving on until the next update."""

    def __enter__(self) -> "Standstill":
        self._heard = _Heard(self._noticed)
        _HEARTBEAT.addHandler(self._heard)
        self._level = _HEARTBEAT.level
        _HEARTBEAT.setLevel(logging.WARNING)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        _HEARTBEAT.removeHandler(self._heard)
        _HEARTBEAT.setLevel(self._level)

    def _stand(self) -> None:
        self._await_update(self._after)
        begun_s = time.monotonic()
        self._place.link.freeze()
        try:
            if self._noticed.wait(_NOTICE_S):
                self.noticed_s = time.monotonic() - begun_s
            self._over.wait(self._longer_s)
        finally:
            before, moved_s = self._place.counted.updates, time.monotonic()
            self._place.link.thaw()
        self._await_update(before + 1)
        self.recovered_s = time.monotonic() - moved_s

    def _await_update(self, number: int) -> None:
        while self._place.counted.updates < number and not self._over.wait(_LOOK_S):
            pass


class _Heard(logging.Handler):
    """Sets an event with the first warning."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__(logging.WARNING)
        self._event = event

    def emit(self, record: logging.LogRecord) -> None:
        self._event.set()


class Counted:
    """An objective that counts the updates which a server makes with it."""

    def __init__(self, recipe: Recipe) -> None:
        self._inner = recipe.objective
        self.recipe = Recipe(recipe.build, self._objective)
        self.updates = 0

    def _objective(self, outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
        loss, correct = self._inner(outputs, labels)
        self.updates += loss.requires_grad  # not so in evaluation
        return loss, correct


@dataclass
class Place:
    """A server behind a link, both in this process."""

    link: Link
    counted: Counted
    security: Path | None
    """What clients need."""

    @property
    def ports(self) -> tuple[int, int]:
        """Of the link, for a client."""
        (_, port), (_, hyperport) = self.link.addresses
        return port, hyperport


@contextmanager
def place(folder: Path, *, tls: bool, context: LinkContext = CONTEXT) -> Iterator[Place]:
    """Start both; at the end all their threads, files and sockets must be gone.

    Raises:
        TandemError: some are left.
    """
    before = _remains()
    if tls:
        create(folder / "security", [HOST], 100, ())
    security = folder / "security" if tls else None
    counted = Counted(make_recipe())
    server = Server(
        {WORKLOAD: counted.recipe},
        pinned={},
        ip=HOST,
        port=0,
        hyperport=0,
        device="cpu",
        queue_limit=5,
        run_dir=folder / "server",
        security=server_security(HOST, security, insecure=security is None),
    )
    accepting = threading.Thread(target=server.serve, name="server")
    accepting.start()
    try:
        routes = [Route((HOST, 0), (HOST, port)) for port in (server.port, server.hyperport)]
        with Link(context, routes) as link:
            yield Place(link, counted, security and security / "edge")
    finally:
        server.close()
        accepting.join()
    _require_end(before)


def _remains() -> tuple[set[threading.Thread], int]:
    """This process's threads but for that of progress bars, and how many files and sockets it has open."""
    threads = {thread for thread in threading.enumerate() if not isinstance(thread, TMonitor)}
    return threads, psutil.Process().num_fds()


def _require_end(before: tuple[set[threading.Thread], int]) -> None:
    """Raises TandemError where a thread, a file or a socket is left over; what is about to end is waited for."""
    until_s, pause = time.monotonic() + _END_S, threading.Event()
    while True:
        threads, files = _remains()
        left = [thread.name for thread in threads - before[0]]
        if not left and files <= before[1]:
            return
        if time.monotonic() > until_s:
            raise TandemError(f"{files - before[1]} files and these threads are left over: {', '.join(left)}")
        pause.wait(0.05)


@dataclass(frozen=True)
class Survived:
    """A run that has ended in spite of all."""

    outcome: Outcome
    updates: int
    """Made by the server."""
    seconds: float

    def difference(self, undisturbed: Outcome) -> str:
        """In what it differs, in words; empty where it is equal, and the server has made each update once."""
        steps = len(undisturbed.losses)
        counted = "" if self.updates == steps else f"the server has made {self.updates} updates for {steps} steps"
        return self.outcome.difference(undisturbed) or counted


def train(place: Place, images: Images, setting: Setting, run_dir: Path, epochs: int, **more: Any) -> Survived:
    """One run over the link, with ``more`` options of the client."""
    begun_s, before = time.monotonic(), place.counted.updates
    options = client_options(images, setting, run_dir, epochs, place.ports, security=place.security, **more)
    security = client_security(HOST, place.security, insecure=place.security is None)
    run = train_with_server(plan_job(options), options, security)
    return Survived(Outcome.read(run.folder), place.counted.updates - before, time.monotonic() - begun_s)
