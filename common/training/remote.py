"""The edge's side of a session's connections: open it on the control port, attach on the training port, and again."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from common.errors import ConnectionLost, PeerError, PeerSilent, SessionGone, Unreachable
from common.naming import printable
from common.records import software_version
from common.training.line import Line
from common.wire.admission import ClientSecurity
from common.wire.framing import Limits
from common.wire.messages import PROTOCOL, Attach, Attached, Open, Opened, Ping, Pong
from common.wire.structs import Job, Resume
from common.wire.tcp import CONTROL_LIMITS, IDLE_TIMEOUT_S, Connection, connect, expect

T = TypeVar("T")

log = logging.getLogger(__name__)

RECONNECT_S = 300.0
"""How long an edge tries to reach a server that was lost, unless its user says otherwise."""
DEFAULT_WINDOW = 64
_PINGS = 5
_OPENING_TIMEOUT_S = 180.0  # the server builds and traces the model meanwhile
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True)
class Cloud:
    """Where a server is, and how to talk to it."""

    ip: str
    port: int
    """Training port."""
    hyperport: int
    """Control port."""
    security: ClientSecurity | None = None
    """What to ask of the server and to show to it, on both ports; None for no protection."""

    def dial_control(self) -> Connection:
        """A connection to the control port."""
        return self._dial(self.hyperport, "--hyperport")

    def dial_training(self) -> Connection:
        """A connection to the training port."""
        return self._dial(self.port, "--port")

    def _dial(self, port: int, what: str) -> Connection:
        connection = connect(self.ip, port, what=what)
        if self.security is not None:
            try:
                self.security.introduce(connection, self.ip)
            except BaseException:
                connection.close()
                raise
        return connection


@dataclass(frozen=True)
class OpenSession:
    """A session that a server has opened for this edge."""

    name: str
    key: bytes
    control: Connection
    training: Connection
    received: int
    """Frames that the server has received; 0 of a new session."""
    rtt_s: float
    """Least round-trip time of some pings on the control port."""
    clock_offset_s: float
    """The server's clock minus this one's; right within half the round trip."""
    notes: tuple[str, ...]
    checkpoint: int
    """Where a resumed session goes on; 0 for a new one."""
    share: str
    """What it has in common with others; see `common.training.sharing`."""


def open_session(
    ip: str,
    port: int,
    hyperport: int,
    job: Job,
    largest_body: int,
    security: ClientSecurity | None = None,
    *,
    window: int = DEFAULT_WINDOW,
    resume: Resume | None = None,
    received: dict[int, int] | None = None,
    patience_s: float = 0.0,
    reached: bool = False,
) -> OpenSession:
    """Ask a server for a session.

    Args:
        ip: address of the server.
        port: its training port.
        hyperport: its control port.
        job: what to train.
        largest_body: bytes of the largest body that an answer can have.
        security: what to ask of the server and to show to it, on both ports; None for no protection.
        window: the most frames that will be without an answer at a time.
        resume: the session to go on with, and from which checkpoints that can be.
        received: for each of these checkpoints, the answers that had been applied.
        patience_s: how long to try again where a connection breaks meanwhile.
        reached: whether a server has been there before; else one that cannot be reached at all is not waited for.

    Raises:
        ConnectionLost: nobody listens there, or the connection broke.
        SecurityError: whoever listens there is not the server that this edge belongs to.
        SessionGone: the server has none of the checkpoints.
        PeerError: the server refuses the job, and says why.
        ProtocolError: whoever listens there does not speak the protocol.
    """
    cloud = Cloud(ip, port, hyperport, security)
    request = Open(PROTOCOL, software_version(), job, window, resume)
    attempt = partial(_open, cloud, request, largest_body, received or {}, patience_s)
    return _patiently(attempt, patience_s, reached)


def _open(cloud: Cloud, request: Open, largest_body: int, received: dict[int, int], patience_s: float) -> OpenSession:
    control = cloud.dial_control()
    try:
        control.send(request)
        control.set_timeout(_OPENING_TIMEOUT_S)
        opened = expect(control.receive().frame, Opened)
        control.set_limits(CONTROL_LIMITS)
        rtt_s, offset_s = _compare_clocks(control)
        attach = partial(_dial, cloud, opened, received.get(opened.checkpoint, 0))
        try:
            training, attached = _patiently(attach, patience_s)  # a session that has been attached to waits for more
        except SessionGone as gone:  # the control connection broke before
            raise ConnectionLost(str(gone)) from None
    except BaseException:
        control.close()
        raise
    training.set_limits(Limits(body_bytes=largest_body))
    return OpenSession(
        opened.session,
        opened.key,
        control,
        training,
        attached,
        rtt_s,
        offset_s,
        opened.notes,
        opened.checkpoint,
        opened.share,
    )


def _dial(cloud: Cloud, opened: Opened, received: int) -> tuple[Connection, int]:
    """The first training connection of a session, and how many frames the server has received."""
    training = cloud.dial_training()
    try:
        return training, _attach(training, opened.session, opened.key, received)
    except BaseException:
        training.close()
        raise


def _patiently(attempt: Callable[[], T], patience_s: float, reached: bool = False) -> T:
    """Try again where a connection breaks; what cannot be reached, or is silent, only where it was there before."""
    begun_s, pause_s = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except ConnectionLost as error:
            left_s = patience_s - (time.monotonic() - begun_s)
            if left_s <= 0 or (isinstance(error, (Unreachable, PeerSilent)) and not reached):
                raise
            log.info("%s; trying again", printable(str(error)))
        reached = True
        time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Reattacher:
    """Brings a session's training back when its connection has broken; what a `Line` restores itself by.

    Args:
        cloud: where to.
        session: as opened.
        largest_body: bytes of the largest body that an answer can have.
        patience_s: how long to try, each time.
    """

    def __init__(self, cloud: Cloud, session: OpenSession, largest_body: int, patience_s: float) -> None:
        self._cloud, self._session = cloud, session
        self._limits = Limits(body_bytes=largest_body)
        self._patience_s = patience_s

    def __call__(self, line: Line, error: ConnectionLost) -> None:
        """Attach anew, with pauses that grow and vary, so that the edges of a server do not all come at once.

        Raises:
            ConnectionLost: the server could not be reached for too long.
            SessionGone: the server does not know the session: it was started anew, or has forgotten it.
        """
        lost_s, pause_s, reason, told = time.monotonic(), _FIRST_PAUSE_S, error, ""
        while not line.ended:
            if str(reason) != told:  # once, however often: it may be for good, and only the user can tell
                told = str(reason)
                log.info("%s; connecting again", printable(told))
            try:
                if self._attach(line):
                    log.info("connected again after %.1f s", time.monotonic() - lost_s)
                    return
            except ConnectionLost as again:
                reason = again
            except SessionGone:
                raise
            except PeerError as refusal:  # a server that is full now may have room soon
                reason = ConnectionLost(str(refusal))
            left_s = self._patience_s - (time.monotonic() - lost_s)
            if left_s <= 0:
                raise ConnectionLost(f"{reason}; the server was away for {self._patience_s:g} s (--reconnect_s)")
            line.pause(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _attach(self, line: Line) -> bool:
        connection = self._cloud.dial_training()
        try:
            generation, received = line.detach()
            theirs = _attach(connection, self._session.name, self._session.key, received)
            connection.set_limits(self._limits)
            adopted = line.adopt(connection, generation, theirs)
        except BaseException:
            connection.close()
            raise
        if not adopted:
            connection.close()
        return adopted or line.ended


def reattach_control(cloud: Cloud, name: str, key: bytes) -> Connection:
    """A control connection of a session that has lost its own."""
    connection = cloud.dial_control()
    try:
        _attach(connection, name, key, 0)
    except BaseException:
        connection.close()
        raise
    connection.set_limits(CONTROL_LIMITS)
    return connection


def _attach(connection: Connection, session: str, key: bytes, received: int) -> int:
    connection.send(Attach(session, key, received))
    attached = expect(connection.receive().frame, Attached)
    connection.set_timeout(IDLE_TIMEOUT_S)
    return attached.received


def _compare_clocks(control: Connection) -> tuple[float, float]:
    """Round-trip time and clock offset, from the fastest of some pings (as NTP takes them)."""
    samples = []
    for number in range(_PINGS):
        sent = time.perf_counter()
        control.send(Ping(number))
        pong = expect(control.receive().frame, Pong)
        back = time.perf_counter()
        samples.append((back - sent, pong.clock_s - (sent + back) / 2))
    return min(samples)
