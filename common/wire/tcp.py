"""Frames over a TCP socket, as it is or under TLS.

Sockets block in the kernel and are bounded there (``SO_RCVTIMEO``, ``SO_SNDTIMEO``, keepalive), so a thread
that waits costs nothing, and a bound counts only time in which no byte moved. A deadline counts all time.
"""

import errno
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from common.errors import ConnectionLost, PeerError, PeerSilent, ProtocolError, SessionGone, Unreachable
from common.naming import printable
from common.wire.counts import kernel_counts
from common.wire.framing import Buffer, Frame, FrameReader, Limits, frame_bytes, pack
from common.wire.messages import Bye, Error, Message
from common.wire.reasons import alert_reason
from common.wire.stream import Overdue, Plain, Stream
from common.wire.structs import Struct
from common.wire.tls import NotTls, Tls

M = TypeVar("M", bound=Struct)

HANDSHAKE_LIMITS = Limits(header_bytes=1 << 16, body_bytes=0)
CONTROL_LIMITS = Limits(header_bytes=1 << 16, body_bytes=1 << 20)
"""On a control connection behind its first answer: the body is that of a probe of the link, of 1 MiB at most."""
IDLE_TIMEOUT_S = 300.0
HANDSHAKE_TIMEOUT_S = 15.0
_FAREWELL_S = 1.0  # how long a refused peer may take to hear why
_CHUNK_BYTES = 1 << 18  # received at a time: in cache when its checksum is taken
_UNATTENDED_BYTES = 1 << 15  # half of the smallest usual window: with more, the sender may have had to wait
_MAX_PARTS = 512  # of one sendmsg; the kernel's own limit (IOV_MAX) is 1024


@dataclass(frozen=True)
class Received:
    """A frame, and when its bytes came: from behind its first bytes to its last one."""

    frame: Frame
    started_s: float
    """`time.perf_counter` of this side."""
    seconds: float
    timed_bytes: int = 0
    """How many bytes came in these seconds. What lay here when they began is not among them (a thread that was late,
    the first segment); the beginning of the next frame may be. 0 where so much had come while nobody received that the
    sender may have had to wait: then the seconds are not those of the link."""


class Connection:
    """One TCP connection that carries frames. Sending and receiving may each have a thread of their own.

    It owns the socket from here on, even where it raises ``OSError`` because the peer is gone already.
    """

    def __init__(self, sock: socket.socket, *, limits: Limits | None = None) -> None:
        self._socket = sock
        self._plain = Plain(sock)
        self._stream: Stream = self._plain
        self._reader = FrameReader(limits)
        self._deadline_s = 0.0
        self._sent = self._came = 0
        self._left = 0  # bytes that had come when `receive` returned
        try:
            self.peer = "{}:{}".format(*sock.getpeername()[:2])
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(sock)
            self.set_timeout(HANDSHAKE_TIMEOUT_S)
        except OSError:
            sock.close()
            raise

    def use_tls(self, context: ssl.SSLContext, *, hostname: str | None = None) -> bytes | None:
        """Go on under TLS, before anything else is sent; returns the peer's certificate (DER), if it showed one.

        Args:
            context: certificates, and what is asked of the peer's.
            hostname: on the client's side, what the server is called here.

        Raises:
            NotTls: the peer speaks something else; the connection is still as it was, and can carry a refusal.
            ssl.SSLError: a certificate or a protocol version will not do; the peer has been told by an alert.
            ConnectionLost: the peer closed or died, was silent, or took too long.
        """
        tls = Tls(self._plain, context, hostname=hostname)
        try:
            tls.handshake()
        except (NotTls, ssl.SSLError):
            raise
        except OSError as error:
            # In the midst of a handshake there is no way to tell the peer: a silent one is lost as well.
            raise ConnectionLost(str(self._lost(error, "sent nothing"))) from None
        self._stream = tls
        self._reader = FrameReader(self._reader.limits, checksum=False)  # a peer may leave to TLS what TLS does
        return tls.peer_certificate

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that the peer's machine has taken, and bytes that have come from it; both only grow.

        Linux counts them; elsewhere it is what `send` and `receive` have handed to the kernel, or got.
        """
        return kernel_counts(self._socket) or (self._sent, self._came)

    @property
    def progress(self) -> int:
        """A number that grows with each byte that moves either way."""
        return sum(self.moved)

    def set_timeout(self, seconds: float) -> None:
        """How long `send` and `receive` wait without one byte moving; 0 for ever (keepalive still watches)."""
        self._plain.set_timeout(seconds)

    def set_deadline(self, seconds: float | None) -> None:
        """When all sending and receiving from now on must have ended, however many bytes move; None lifts it."""
        self._deadline_s = seconds or 0.0
        self._plain.set_deadline(seconds)

    def set_limits(self, limits: Limits) -> None:
        """From now on, what a received frame may measure."""
        self._reader.limits = limits

    def send(self, message: Message, buffers: Sequence[Buffer] = ()) -> int:
        """Send one frame; returns its size in bytes."""
        return self.send_parts(pack(message, buffers))

    def send_parts(self, parts: list[Buffer]) -> int:
        """Send a frame that `pack` made; returns its size in bytes."""
        rest = parts
        while rest:
            rest = _behind(rest, self._send_some(rest[:_MAX_PARTS]))
        return frame_bytes(parts)

    def receive(self) -> Received:
        """The next frame.

        Raises:
            PeerError: the peer sent a typed error.
            ProtocolError: bytes that are no frame.
            ConnectionLost: the peer closed or died, or nothing came within the timeout.
        """
        started, before, unattended = 0.0, 0, self.moved[1] - self._left
        while True:
            target = self._reader.get_buffer()[:_CHUNK_BYTES]
            if not (n := self._receive_some(target)):
                raise self._closed()
            if not started:
                started, before = time.perf_counter(), self.moved[1]
            if frames := self._reader.buffer_updated(n):
                break
        elapsed, self._left = time.perf_counter() - started, self.moved[1]
        seconds = max(elapsed - self._plain.lateness_s, 0.0)
        if isinstance(frames[0].message, Error):
            kind = SessionGone if frames[0].message.code == "gone" else PeerError
            raise kind(f"{self.peer} {_verdict(frames[0].message)}")
        timed = self._left - before if unattended < _UNATTENDED_BYTES else 0
        return Received(frames[0], started, seconds, timed)

    def refuse(self, error: Error | Bye) -> None:
        """Send the last frame, mostly an error, and see that it arrives.

        What the peer is still sending is read and dropped for a moment: closing with unread bytes would reset
        the connection, and the error would be lost with it.
        """
        try:
            self.set_deadline(None)
            self.set_timeout(_FAREWELL_S)
            self.send(error)
            self._socket.shutdown(socket.SHUT_WR)
            waste, until = bytearray(_CHUNK_BYTES), time.monotonic() + _FAREWELL_S
            while self._socket.recv_into(waste) and time.monotonic() < until:
                pass
        except (OSError, ConnectionLost):
            return  # the peer is gone already: there is nobody left to tell

    def shut(self) -> None:
        """End the connection under threads that wait in `send` or `receive`; they raise `ConnectionLost`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise

    def close(self) -> None:
        """Close after what was sent; may be called twice."""
        self.shut()
        self._socket.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive_some(self, target: memoryview) -> int:
        try:
            # The reader never asks beyond the frame at hand, so waiting for all of it is safe.
            n = self._stream.receive_into(target)
        except OSError as error:
            raise self._lost(error, "sent nothing") from error
        self._came += n
        return n

    def _send_some(self, parts: list[Buffer]) -> int:
        try:
            n = self._stream.send(parts)
        except OSError as error:
            raise self._lost(error, "took nothing") from error
        self._sent += n
        return n

    def _lost(self, error: OSError, inaction: str) -> ConnectionLost:
        if isinstance(error, Overdue):
            return PeerSilent(f"{self.peer} was not through with its handshake after {self._deadline_s:g} s")
        if isinstance(error, BlockingIOError):
            return PeerSilent(f"{self.peer} {inaction} for {self._plain.timeout_s:g} s")
        reason = alert_reason(error) if isinstance(error, ssl.SSLError) else error.strerror or error
        return ConnectionLost(f"the connection to {self.peer} broke: {reason}")

    def _closed(self) -> ConnectionLost:
        place = "" if self._reader.at_boundary else " in the middle of a frame"
        return ConnectionLost(f"{self.peer} closed the connection{place}")


def connect(host: str, port: int, *, what: str, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> Connection:
    """Connect to a server's port, with the limits of a handshake; ``what`` names the flag that gave the port.

    Raises:
        Unreachable: there is no such host, or nobody listens there.
        ConnectionLost: the connection broke at once.
    """
    try:
        sock = socket.create_connection((host, port), timeout=timeout_s)
    except (OSError, UnicodeError, OverflowError) as error:  # the latter two of a host or port that is none
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreachable(
            f"no connection to {host}:{port} ({what}): {reason}; is the server running there, and is the port open?"
        ) from None
    try:
        return Connection(sock, limits=HANDSHAKE_LIMITS)
    except OSError as error:
        raise ConnectionLost(f"the connection to {host}:{port} ({what}) broke at once: {error.strerror}") from None


def listen(host: str, port: int, *, what: str) -> socket.socket:
    """A listening socket; port 0 takes any free one."""
    try:
        return socket.create_server((host, port), backlog=128)
    except (OSError, UnicodeError, OverflowError) as error:
        # `create_server` adds the address again.
        reason, _, _ = (getattr(error, "strerror", None) or str(error)).partition(" (while")
        raise ConnectionLost(f"cannot listen on {host}:{port} ({what}): {reason}; choose another with {what}") from None


def expect(frame: Frame, kind: type[M]) -> M:
    """The frame's message, if it is of the kind that is due."""
    if not isinstance(frame.message, kind):
        due, got = kind.__struct_config__.tag, type(frame.message).__struct_config__.tag
        raise ProtocolError(f"the peer sent {got!r} where {due!r} was due")
    return frame.message


def _behind(parts: list[Buffer], nbytes: int) -> list[Buffer]:
    """What is left of ``parts`` behind their first ``nbytes``."""
    for i, part in enumerate(parts):
        if nbytes < len(part):
            return [memoryview(part)[nbytes:], *parts[i + 1 :]]
        nbytes -= len(part)
    return []


def _verdict(error: Error) -> str:
    verbs = {
        "denied": "refused the connection",
        "refused": "refused the job",
        "gone": "does not have the session",
        "protocol": "could not read what this side sent",
    }
    return f"{verbs.get(error.code, 'failed')}: {printable(error.text)}"


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel find a dead peer on an idle connection within half a minute."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
