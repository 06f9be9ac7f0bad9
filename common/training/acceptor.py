"""Accepts connections on listening sockets and serves each in a thread of its own, until it is closed."""

import contextlib
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from common.errors import ConnectionLost, PeerError, PeerSilent, ProtocolError, SecurityError, SessionGone, TandemError
from common.naming import printable
from common.training.quiet import LogLimit
from common.wire.admission import TURNED_AWAY, ServerSecurity
from common.wire.framing import pack
from common.wire.messages import Error
from common.wire.tcp import HANDSHAKE_LIMITS, HANDSHAKE_TIMEOUT_S, Connection

log = logging.getLogger(__name__)

_BREATH_S = 0.5  # before accepting again when it failed

Serve: TypeAlias = Callable[[Connection], None]


@dataclass(frozen=True)
class Admission:
    """How many connections are taken, and how long each has to say what it wants."""

    connections: int = 2048
    """At the same time; each has a thread, and little else until its session is open."""
    per_address: int = 1024
    """Of these, from one address: nobody alone can take all of them."""
    handshake_s: float = HANDSHAKE_TIMEOUT_S
    """From accepting a connection to its first message behind TLS and token; bytes that drip do not lengthen it."""


class Acceptor:
    """Whatever goes wrong with a connection is told to its peer and the log, and ends that connection only.

    What serves a connection lifts its deadline (`Connection.set_deadline`) when it has said what it wants.

    Args:
        listeners: listening sockets, which this owns, with what serves a connection to each.
        security: what clients must show before anything else; None for connections without protection.
        admission: limits.
    """

    def __init__(
        self,
        listeners: Mapping[socket.socket, Serve],
        security: ServerSecurity | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._listeners = dict(listeners)
        self._security = security
        self._admission = admission or Admission()
        self._log_limit = LogLimit()
        self._connections: set[Connection] = set()
        self._threads: dict[threading.Thread, str] = {}
        self._addresses: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def serve(self) -> None:
        """Accept connections until `close`."""
        acceptors = [
            threading.Thread(target=self._accept, args=each, name="accept", daemon=True)
            for each in self._listeners.items()
        ]
        for acceptor in acceptors:
            acceptor.start()
        for acceptor in acceptors:
            acceptor.join()

    def close(self) -> None:
        """Stop listening, end all connections, and wait for their threads."""
        self._closing.set()
        for listener in self._listeners:
            _shut(listener)
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            connection.shut()
        for thread in threads:
            if thread.ident is not None:  # else it has not begun, and will find that all is over
                thread.join()

    def _accept(self, listener: socket.socket, serve: Serve) -> None:
        while True:
            try:
                sock, peer = listener.accept()
            except OSError as error:
                if self._closing.wait(_BREATH_S):
                    return
                # Out of file descriptors, say: those who are served go on, and others may come when it is over.
                log.warning("a connection could not be accepted: %s", error)
                continue
            if too_many := self._too_many(peer[0]):
                self._warn(peer[0], "a connection from %s was refused: %s", peer[0], too_many)
                _turn_away(sock, TURNED_AWAY if self._security else _refusal(too_many))
                continue
            thread = threading.Thread(target=self._guard, args=(sock, peer[0], serve), name="session", daemon=True)
            with self._lock:
                self._threads[thread] = peer[0]
                self._addresses[peer[0]] += 1
            try:
                thread.start()
            except RuntimeError as error:  # this machine gives no more threads; those who are served go on
                self._forget(thread)
                self._warn(peer[0], "a connection from %s was refused: %s", peer[0], error)
                _turn_away(sock, TURNED_AWAY if self._security else _refusal(str(error)))

    def _forget(self, thread: threading.Thread) -> None:
        with self._lock:
            self._addresses -= Counter([self._threads.pop(thread)])  # drops addresses that have none left

    def _too_many(self, address: str) -> str:
        """Why one more connection from an address cannot be served; empty where it can."""
        limits = self._admission
        with self._lock:
            if len(self._threads) >= limits.connections:
                return f"this server has {limits.connections} connections, its most"
            if self._addresses[address] >= limits.per_address:
                return f"this server has {limits.per_address} connections from {address}, the most of one address"
        return ""

    def _guard(self, sock: socket.socket, address: str, serve: Serve) -> None:
        try:
            with Connection(sock, limits=HANDSHAKE_LIMITS) as connection:
                with self._lock:
                    self._connections.add(connection)
                try:
                    if not self._closing.is_set():
                        connection.set_deadline(self._admission.handshake_s)
                        if self._security is not None:
                            self._security.admit(connection)
                        serve(connection)
                except PeerSilent as error:
                    self._warn(address, "%s", error)
                    connection.refuse(Error("refused", str(error)))
                except (ConnectionLost, PeerError) as error:
                    self._warn(address, "%s", error)
                except SecurityError as error:
                    self._warn(address, "%s was not admitted: %s", connection.peer, error)
                except TandemError as error:
                    self._warn(address, "%s: %s", connection.peer, error)
                    connection.refuse(Error(_code(error), str(error)))
                except Exception as error:
                    if (more := self._log_limit.passes(address)) is not None:
                        log.exception("%s: this server failed%s", connection.peer, more)
                    connection.refuse(Error("failed", f"{type(error).__name__}: {error}"))
                finally:
                    with self._lock:
                        self._connections.discard(connection)
        except OSError as error:
            self._warn(address, "a connection broke at once: %s", error)
        finally:
            self._forget(threading.current_thread())

    def _warn(self, address: str, text: str, *values: object) -> None:
        """Log what a peer has done, unless its address has filled its share of the log."""
        if (more := self._log_limit.passes(address)) is not None:
            log.warning("%s%s", printable(text % values), more)


def _code(error: TandemError) -> str:
    if isinstance(error, SessionGone):
        return "gone"
    return "protocol" if isinstance(error, ProtocolError) else "refused"


def _refusal(reason: str) -> bytes:
    return b"".join(pack(Error("denied", f"{reason}; try again later")))


def _turn_away(sock: socket.socket, farewell: bytes) -> None:
    """Close a connection that is one too many, in words where its buffer takes them."""
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(farewell)


def _shut(listener: socket.socket) -> None:
    """Close a listening socket and wake the thread that accepts on it."""
    with contextlib.suppress(OSError):  # not every system knows shutdown on a listener; closing is then enough
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
