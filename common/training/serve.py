"""The cloud's side: a server that holds the tails of many sessions, each with its own connections and threads."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.codec.limit import DEFAULT_MB, mebibytes
from common.errors import ConnectionLost, JobRefused, PeerSilent, ProtocolError, SessionGone
from common.naming import printable
from common.records import check_run_dir, software_version
from common.training.acceptor import Acceptor, Admission, Serve
from common.training.ended import EndedRuns
from common.training.gathering import LONGEST_WAIT_S, Gatherings
from common.training.hosted import AWAY_S, Hosted, Place
from common.training.joint_part import joint_maker
from common.training.meeting import Labels, Meetings
from common.training.opening import Opener, Recipe
from common.training.probing import answer
from common.training.profiles import packed
from common.training.session import check_open
from common.training.sharing import Groups, Share
from common.training.turns import Turns
from common.wire.admission import ServerSecurity
from common.wire.messages import Attach, Attached, Measure, Measured, Meet, Open, Opened
from common.wire.structs import Resume
from common.wire.tcp import CONTROL_LIMITS, Connection, expect, listen

log = logging.getLogger(__name__)

_ATTACH_TIMEOUT_S = 60.0  # for an edge that has opened a session
_SWAPPED = "are --port and --hyperport swapped?"


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
        away_s: how long a session waits for its edge to come back.
        share: what sessions of the same job have in common.
        clients: sessions that must be there before the first mean of ``share`` average.
        more_ports: further training ports; 0 takes free ones.
        port_flags: what all training ports are called on the command line.
        labels: of runs of several parties that have none.
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
        away_s: float = AWAY_S,
        share: Share = Share.NONE,
        clients: int = 1,
        more_ports: Sequence[int] = (),
        port_flags: Sequence[str] = ("--port",),
        labels: Labels | None = None,
    ) -> None:
        place = Place(Turns(default_places(device)), queue_limit, away_s, self._forget)
        self._groups = Groups(share, clients)
        wait_s = min(away_s, LONGEST_WAIT_S)
        ended = EndedRuns(run_dir)
        gatherings = Gatherings(joint_maker(recipes, device, place.turns, labels, ended), wait_s)
        self._meetings = Meetings(gatherings.allow, away_s, labels)
        self._opener = Opener(recipes, pinned, device, codec_memory_mb, run_dir, place, self._groups, gatherings, ended)
        self._max_sessions = max_sessions
        self._places = threading.Semaphore(max_sessions)
        self._sessions: dict[str, Hosted] = {}
        self._lock = threading.Lock()
        check_run_dir(run_dir)
        with contextlib.ExitStack() as stack:
            training = [
                stack.enter_context(listen(ip, each, what=flag))
                for each, flag in zip((port, *more_ports), port_flags, strict=True)
            ]
            control = stack.enter_context(listen(ip, hyperport, what="--hyperport"))
            stack.pop_all()
        self.port, *others = [each.getsockname()[1] for each in training]
        self.more_ports: tuple[int, ...] = tuple(others)
        self.hyperport: int = control.getsockname()[1]
        listeners: dict[socket.socket, Serve] = {control: self._serve_control}
        listeners |= dict.fromkeys(training, self._serve_training)
        self._acceptor = Acceptor(listeners, security, admission)

    def serve(self) -> None:
        """Accept sessions until `close`."""
        self._acceptor.serve()

    def close(self) -> None:
        """Stop listening, end all sessions, and wait for their threads."""
        sessions = self._open_sessions()
        for session in sessions:
            session.line.end()
        self._acceptor.close()
        for session in {*sessions, *self._open_sessions()}:  # some may have come in between
            session.stop()

    def _serve_control(self, connection: Connection) -> None:
        frame = connection.receive().frame
        connection.set_deadline(None)
        if isinstance(frame.message, Measure):
            self._measure(connection, frame.message)
            return
        if isinstance(frame.message, Meet):
            self._meet(connection, frame.message)
            return
        if isinstance(frame.message, Attach):
            session = self._find(frame.message)
            connection.send(Attached(0))
        else:
            session = self._admit(connection, expect(frame, Open))
        session.hold_control(connection)
        try:
            connection.set_limits(CONTROL_LIMITS)
            self._answer(session, connection)
        finally:
            if session.give_up():
                self._forget(session)

    def _measure(self, connection: Connection, request: Measure) -> None:
        """Tell an edge that plans how fast this machine is at its model."""
        check_open(request)
        if not self._places.acquire(blocking=False):
            raise JobRefused(f"this server has {self._max_sessions} sessions, its most; try again later")
        try:
            log.info("%s asks for a profile of %s", connection.peer, printable(request.job.model, 200))
            profile = packed(*self._opener.profile(request.job, request.codecs))
        finally:
            self._places.release()
        connection.send(Measured(profile))
        connection.set_limits(CONTROL_LIMITS)
        connection.set_deadline(_ATTACH_TIMEOUT_S)
        with contextlib.suppress(ConnectionLost):  # it closes when it has measured the link as well
            while True:
                answer(connection, connection.receive())

    def _meet(self, connection: Connection, request: Meet) -> None:
        """Bring one of several parties together with the others."""
        if not self._places.acquire(blocking=False):
            raise JobRefused(f"this server has {self._max_sessions} sessions, its most; try again later")
        try:
            self._meetings.serve(connection, request)
        finally:
            self._places.release()

    def _admit(self, connection: Connection, request: Open) -> Hosted:
        """Open a session, and tell its edge."""
        check_open(request)
        if request.resume is not None:
            self._end_live(request.resume)
        if not self._places.acquire(blocking=False):
            raise JobRefused(f"this server has {self._max_sessions} sessions, its most; try again later")
        try:
            session, notes = self._opener.open(request)
        except BaseException:
            self._places.release()
            raise
        with self._lock:
            self._sessions[session.name] = session
        job = session.station.job
        log.info(
            "session %s from %s: %s, cut %s, %s up, %s down, K = %d; up to %s MiB%s",
            session.name,
            connection.peer,
            job.model,
            printable(job.cut_name, 200),
            job.compress_up,
            job.compress_down,
            job.stale_it,
            mebibytes(session.memory_bytes),
            f"; goes on from checkpoint {session.line.received}" if request.resume else "",
        )
        connection.set_timeout(_ATTACH_TIMEOUT_S)
        try:
            received, share = session.line.received, self._groups.share.value
            connection.send(Opened(session.name, session.key, software_version(), notes, received, share))
        except BaseException:
            self._forget(session)
            raise
        return session

    def _answer(self, session: Hosted, connection: Connection) -> None:
        """Answer what comes on a control connection, until the edge has closed it, or it serves nothing any more."""
        seat = session.station.seat
        while not session.ended:
            try:
                answer(connection, connection.receive(), None if seat is None else seat.tell)
            except PeerSilent:
                if not session.begun:
                    raise
            except ConnectionLost:
                return

    def _serve_training(self, connection: Connection) -> None:
        frame = connection.receive().frame
        if isinstance(frame.message, Open):
            raise ProtocolError(f"this is the training port; {_SWAPPED}")
        connection.set_deadline(None)
        message = expect(frame, Attach)
        self._find(message).attach(connection, message)

    def _open_sessions(self) -> list[Hosted]:
        with self._lock:
            return list(self._sessions.values())

    def _find(self, message: Attach) -> Hosted:
        """The session that an edge means."""
        with self._lock:
            session = self._sessions.get(message.session)
        if session is None:
            raise SessionGone(f"no session {message.session!r} waits here; open one on the control port first")
        session.check_key(message.key)
        return session

    def _forget(self, session: Hosted) -> None:
        """A session has ended, or never began: its place is free."""
        with self._lock:
            if self._sessions.pop(session.name, None) is None:
                return
        session.stop()
        self._places.release()

    def _end_live(self, resume: Resume) -> None:
        """An edge that resumes has lost what it knew of its session: that one ends here."""
        with self._lock:
            session = self._sessions.get(resume.session)
        if session is not None:
            session.check_key(resume.key)
            log.info("session %s: its edge resumes it from a checkpoint", session.name)
            session.stop()
            self._forget(session)


def default_places(device: str) -> int:
    """How many sessions compute at a time: one on an accelerator, as many as there are free cores on a CPU."""
    if torch.device(device).type != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // max(1, torch.get_num_threads()))
