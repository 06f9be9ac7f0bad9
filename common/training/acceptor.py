"""Accepts connections on listening sockets and serves each in a thread of its own, until it is closed."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

from common.errors import ConnectionLost, PeerError, PeerSilent, ProtocolError, TandemError
from common.wire.framing import pack
from common.wire.messages import Error
from common.wire.tcp import HANDSHAKE_LIMITS, Connection

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
_BREATH_S = 0.5  # before accepting again when it failed

Serve: TypeAlias = Callable[[Connection], None]


class Acceptor:
    """Whatever goes wrong with a connection is told to its peer and the log, and ends that connection only.

    Args:
        listeners: listening sockets, which this owns, with what serves a connection to each.
    """

    def __init__(self, listeners: Mapping[socket.socket, Serve]) -> None:
        self._listeners = dict(listeners)
        self._connections: set[Connection] = set()
        self._threads: set[threading.Thread] = set()
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
            if len(self._threads) >= MAX_CONNECTIONS:
                log.warning("a connection from %s:%d was refused: there are %d", *peer[:2], MAX_CONNECTIONS)
                _turn_away(sock)
                continue
            thread = threading.Thread(target=self._guard, args=(sock, serve), name="session", daemon=True)
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _guard(self, sock: socket.socket, serve: Serve) -> None:
        try:
            with Connection(sock, limits=HANDSHAKE_LIMITS) as connection:
                with self._lock:
                    self._connections.add(connection)
                try:
                    if not self._closing.is_set():
                        serve(connection)
                except PeerSilent as error:
                    log.warning("%s", error)
                    connection.refuse(Error("refused", str(error)))
                except (ConnectionLost, PeerError) as error:
                    log.warning("%s", error)
                except TandemError as error:
                    log.warning("%s: %s", connection.peer, error)
                    code = "protocol" if isinstance(error, ProtocolError) else "refused"
                    connection.refuse(Error(code, str(error)))
                except Exception as error:
                    log.exception("%s: this server failed", connection.peer)
                    connection.refuse(Error("failed", f"{type(error).__name__}: {error}"))
                finally:
                    with self._lock:
                        self._connections.discard(connection)
        except OSError as error:
            log.warning("a connection broke at once: %s", error)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())


def _turn_away(sock: socket.socket) -> None:
    """Close a connection that is one too many, in words where its buffer takes them."""
    reason = f"this server has {MAX_CONNECTIONS} connections, its most; try again later"
    with sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(b"".join(pack(Error("refused", reason))))


def _shut(listener: socket.socket) -> None:
    """Close a listening socket and wake the thread that accepts on it."""
    with contextlib.suppress(OSError):  # not every system knows shutdown on a listener; closing is then enough
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
