"""The edge's side of the handshake: open a session on the control port, attach to it on the training port."""

import time
from dataclasses import dataclass

from common.records import software_version
from common.wire.admission import ClientSecurity
from common.wire.framing import Limits
from common.wire.messages import PROTOCOL, Attach, Attached, Job, Open, Opened, Ping, Pong
from common.wire.tcp import IDLE_TIMEOUT_S, Connection, connect, expect

_PINGS = 5
_OPENING_TIMEOUT_S = 180.0  # the server builds and traces the model meanwhile


@dataclass(frozen=True)
class OpenSession:
    """A session that a server has opened for this edge."""

    name: str
    control: Connection
    training: Connection
    rtt_s: float
    """Least round-trip time of some pings on the control port."""
    clock_offset_s: float
    """The server's clock minus this one's; right within half the round trip."""
    notes: tuple[str, ...]


def open_session(
    ip: str, port: int, hyperport: int, job: Job, largest_body: int, security: ClientSecurity | None = None
) -> OpenSession:
    """Ask a server for a session.

    Args:
        ip: address of the server.
        port: its training port.
        hyperport: its control port.
        job: what to train.
        largest_body: bytes of the largest body that an answer can have.
        security: what to ask of the server and to show to it, on both ports; None for no protection.

    Raises:
        ConnectionLost: nobody listens there, or the connection broke.
        SecurityError: whoever listens there is not the server that this edge belongs to.
        PeerError: the server refuses the job, and says why.
        ProtocolError: whoever listens there does not speak the protocol.
    """
    control = _connect(ip, hyperport, "--hyperport", security)
    try:
        control.send(Open(PROTOCOL, software_version(), job))
        control.set_timeout(_OPENING_TIMEOUT_S)
        opened = expect(control.receive().frame, Opened)
        rtt_s, offset_s = _compare_clocks(control)
        training = _connect(ip, port, "--port", security)
    except BaseException:
        control.close()
        raise
    try:
        training.send(Attach(opened.session))
        expect(training.receive().frame, Attached)
    except BaseException:
        training.close()
        control.close()
        raise
    training.set_timeout(IDLE_TIMEOUT_S)
    training.set_limits(Limits(body_bytes=largest_body))
    return OpenSession(opened.session, control, training, rtt_s, offset_s, opened.notes)


def _connect(ip: str, port: int, what: str, security: ClientSecurity | None) -> Connection:
    connection = connect(ip, port, what=what)
    if security is not None:
        try:
            security.introduce(connection, ip)
        except BaseException:
            connection.close()
            raise
    return connection


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
