"""The cloud's side: a server that holds the tails of many sessions, each with its own connections and threads."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from common.codec.limit import DEFAULT_MB
from common.errors import ConnectionLost, JobRefused, PeerSilent, ProtocolError, TandemError
from common.naming import printable
from common.records import check_run_dir, new_folder, software_version, write_json
from common.training.acceptor import Acceptor, Admission
from common.training.duplex import Duplex
from common.training.exchange import Answer, Upload
from common.training.prepare import largest_body, make_tail, prepare
from common.training.score import Score
from common.training.session import check_open
from common.training.tail import Objective
from common.training.timed import TimedTail, busy_timer
from common.wire.admission import ServerSecurity
from common.wire.framing import Buffer, Limits, pack
from common.wire.messages import Attach, Attached, Finish, Finished, Job, Open, Opened, Ping, Pong
from common.wire.tcp import IDLE_TIMEOUT_S, Connection, Received, expect, listen

log = logging.getLogger(__name__)

_ATTACH_TIMEOUT_S = 60.0  # for an edge that has opened a session
_SWAPPED = "are --port and --hyperport swapped?"
MAX_BODY_BYTES = 1 << 30
"""Of a job's largest step; what a session can make this server allocate for a frame."""


@dataclass(frozen=True)
class Recipe:
    """What the server knows of a workload: how to build its model and what it optimises."""

    build: Callable[[Job], nn.Module]
    objective: Objective


@dataclass
class _Session:
    name: str
    job: Job
    tail: nn.Module
    station: TimedTail
    limits: Limits
    ended: bool = False
    answered: int = 0
    trained: Score = field(default_factory=Score)


class Server:
    """Accepts sessions until it is closed. A fault in one session ends that session only.

    Args:
        recipes: workloads by name.
        pinned: fields of the job that must have these values (those that the server was started with).
        ip: address to listen on.
        port: training port; 0 takes a free one.
        hyperport: control port; 0 takes a free one.
        device: where the tails compute.
        codec_memory_mb: what the codecs of a session may remember, in MiB.
        queue_limit: how many items may wait between two threads of a session.
        run_dir: where the trained tails are saved.
        security: what clients must show before anything else; None for connections without protection.
        admission: limits of connections.
        max_sessions: how many may be open at the same time.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        *,
        pinned: Mapping[str, Any],
        ip: str,
        port: int,
        hyperport: int,
        device: str,
        queue_limit: int,
        run_dir: Path,
        codec_memory_mb: int = DEFAULT_MB,
        security: ServerSecurity | None = None,
        admission: Admission | None = None,
        max_sessions: int = 128,
    ) -> None:
        self._recipes = recipes
        self._pinned = pinned
        self._device = device
        self._codec_memory_mb = codec_memory_mb
        self._queue_limit = queue_limit
        self._run_dir = run_dir
        self._max_sessions = max_sessions
        self._places = threading.Semaphore(max_sessions)
        self._waiting: dict[str, _Session] = {}
        self._lock = threading.Lock()
        check_run_dir(run_dir)
        training = listen(ip, port, what="--port")
        try:
            control = listen(ip, hyperport, what="--hyperport")
        except ConnectionLost:
            training.close()
            raise
        self.port: int = training.getsockname()[1]
        self.hyperport: int = control.getsockname()[1]
        listeners = {training: self._serve_training, control: self._serve_control}
        self._acceptor = Acceptor(listeners, security, admission)

    def serve(self) -> None:
        """Accept sessions until `close`."""
        self._acceptor.serve()

    def close(self) -> None:
        """Stop listening, end all sessions, and wait for their threads."""
        self._acceptor.close()

    def _serve_control(self, connection: Connection) -> None:
        frame = connection.receive().frame
        connection.set_deadline(None)
        if isinstance(frame.message, Attach):
            raise ProtocolError(f"this is the control port; {_SWAPPED}")
        request = expect(frame, Open)
        if not self._places.acquire(blocking=False):
            raise JobRefused(f"this server has {self._max_sessions} sessions, its most; try again later")
        attached = False
        try:
            session, notes = self._open(request)
            log.info(
                "session %s from %s: %s, cut %s, %s up, %s down, K = %d",
                session.name,
                connection.peer,
                session.job.model,
                printable(session.job.cut_name, 200),
                session.job.compress_up,
                session.job.compress_down,
                session.job.stale_it,
            )
            with self._lock:
                self._waiting[session.name] = session
            try:
                self._control(session, connection, notes)
            finally:
                with self._lock:
                    attached = self._waiting.pop(session.name, None) is None
        finally:
            if not attached:  # else its training connection gives the place back
                self._places.release()

    def _control(self, session: _Session, connection: Connection, notes: tuple[str, ...]) -> None:
        """The control connection of an open session, until the edge closes it or the session has ended."""
        connection.send(Opened(session.name, software_version(), notes))
        connection.set_timeout(_ATTACH_TIMEOUT_S)
        while (received := self._next(session, connection)) is not None:
            ping = expect(received.frame, Ping)
            connection.send(Pong(ping.number, time.perf_counter()))

    def _next(self, session: _Session, connection: Connection) -> Received | None:
        """The next frame of a control connection; None when the edge has closed it, or it serves nothing any more."""
        while not session.ended:
            try:
                return connection.receive()
            except PeerSilent:
                with self._lock:
                    if session.name in self._waiting:
                        raise
            except ConnectionLost:
                break
        return None

    def _open(self, request: Open) -> tuple[_Session, tuple[str, ...]]:
        check_open(request)
        job = request.job
        for name, value in self._pinned.items():
            if getattr(job, name) != value:
                raise JobRefused(
                    f"this server was started with --{name} {value}, the client with {getattr(job, name)}; "
                    "start both with the same"
                )
        if job.workload not in self._recipes:
            raise JobRefused(f"this server has no workload {job.workload!r}; it has {', '.join(self._recipes)}")
        recipe = self._recipes[job.workload]
        prepared = prepare(lambda: recipe.build(job), job.input_shape, job.seed)
        if prepared.graph.digest != job.graph_digest:
            raise JobRefused(
                f"{job.model} is another model here than at the client (graph {prepared.graph.digest[:8]} against "
                f"{job.graph_digest[:8]}); install the same version of Tandem and torch on both machines"
            )
        notes = []
        if prepared.weights_digest != job.weights_digest:
            notes.append("the seed gives other first weights on the server (another processor or torch version)")
        tail = make_tail(
            prepared, job, device=self._device, objective=recipe.objective, memory_mb=self._codec_memory_mb
        )
        limits = Limits(body_bytes=largest_body(prepared.graph, job))
        if limits.body_bytes > MAX_BODY_BYTES:
            raise JobRefused(
                f"a step of this job may take {limits.body_bytes} bytes on the wire, this server takes "
                f"{MAX_BODY_BYTES}; choose a smaller --batch_size, or another cut"
            )
        station = TimedTail(tail, busy_timer(self._device))
        return _Session(secrets.token_hex(4), job, tail.part, station, limits), tuple(notes)

    def _serve_training(self, connection: Connection) -> None:
        frame = connection.receive().frame
        if isinstance(frame.message, Open):
            raise ProtocolError(f"this is the training port; {_SWAPPED}")
        connection.set_deadline(None)
        attach = expect(frame, Attach)
        with self._lock:
            session = self._waiting.pop(attach.session, None)
        if session is None:
            raise JobRefused(f"no session {attach.session!r} waits here; open one on the control port first")
        try:
            connection.send(Attached())
            connection.set_timeout(IDLE_TIMEOUT_S)
            connection.set_limits(session.limits)
            self._run(session, connection)
        except TandemError as error:
            raise type(error)(f"session {session.name} ended after {session.answered} steps: {error}") from error
        finally:
            session.ended = True
            self._places.release()
        log.info("session %s finished: %d steps", session.name, session.answered)

    def _run(self, session: _Session, connection: Connection) -> None:
        station = session.station
        # A new thread takes over torch's number of threads only when it first asks for it. Until then MKL uses all
        # cores, whatever --threads says, and a sum split in two rounds otherwise than the same sum in one.
        torch.get_num_threads()

        def decode(received: Received) -> Upload | Finish:
            message = received.frame.message
            return message if isinstance(message, Finish) else station.decode(received)

        def encode(item: Answer | Finished) -> list[Buffer]:
            return pack(item) if isinstance(item, Finished) else station.encode(item)

        with Duplex(connection, encode, decode, self._queue_limit) as duplex:
            while not isinstance(upload := duplex.collect(), Finish):
                answer = station.step(upload)
                duplex.submit(answer)
                if answer.training:
                    session.answered += 1
                    session.trained.add(answer.loss, answer.correct, answer.count)
                elif session.trained.count:
                    self._log_epoch(session, upload.epoch)
            self._save(session)  # before the edge hears that all is well
            duplex.submit(Finished(station.digests()))

    def _log_epoch(self, session: _Session, epoch: int) -> None:
        trained, session.trained = session.trained, Score()
        log.info(
            "session %s: epoch %d, training loss %.4f, accuracy %.2f %%",
            session.name,
            epoch + 1,
            trained.loss,
            100 * trained.accuracy,
        )

    def _save(self, session: _Session) -> None:
        folder = new_folder(self._run_dir, f"server-{session.job.model}-{session.name}")
        write_json(folder / "job.json", session.job)
        save_file({k: v.contiguous() for k, v in session.tail.state_dict().items()}, folder / "tail.safetensors")
        log.info("session %s: its tail is in %s", session.name, folder)
