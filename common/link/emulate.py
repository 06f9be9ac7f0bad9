"""A link in user space: a TCP relay with a rate per direction, delay, jitter, and breaks and standstills on request.

The rate of a direction is constant, or follows a trace from the link's start on. It is that of the payload; handshake,
headers, loss and slow start of TCP are not modelled. All sockets have small buffers, so client, link and target belong
on one machine or one local network.
"""

import contextlib
import logging
import random
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from common.errors import UsageError
from common.link.alarm import Alarm
from common.link.connection import Connection
from common.link.contexts import LinkContext
from common.link.lane import Lane
from common.link.trace import Trace

Address = tuple[str, int]

logger = logging.getLogger(__name__)

LEAD_S = 10.0
"""What a link that has a start for its traces replays before it, for those who look at the link first."""


@dataclass(frozen=True)
class Route:
    """Where clients connect, and what they reach through the link."""

    listen: Address
    """Host and port for clients; port 0 takes any free one."""
    target: Address
    """Host and port of the server behind the link."""


class Link:
    """One emulated link, shared by all connections on all its routes.

    Up is from the connecting client to the target, down is back.

    Args:
        context: Rates, delay and jitter.
        routes: What the link connects.
        seed: Seed of the jitter.
        up: Rates over time from client to target, instead of the context's.
        down: Rates over time from target to client, instead of the context's.
        trace_start_s: Where in the traces the first client of the first route finds them; until then they run from
            `LEAD_S` before that on. None: they run from their beginning, whoever comes when.
    """

    def __init__(
        self,
        context: LinkContext,
        routes: Sequence[Route],
        seed: int = 0,
        *,
        up: Trace | None = None,
        down: Trace | None = None,
        trace_start_s: float | None = None,
    ) -> None:
        self._routes = tuple(routes)
        self._trace_start_s = trace_start_s
        self._seed = seed
        self._up = Lane(up or context.up_bps, context.delay_s, context.jitter_s)
        self._down = Lane(down or context.down_bps, context.delay_s, context.jitter_s)
        self._alarm = Alarm()
        self._listeners: list[socket.socket] = []
        self._acceptors: list[threading.Thread] = []
        self._connections: dict[Connection, threading.Thread] = {}
        self._accepted = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Link":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def addresses(self) -> list[Address]:
        """Where each route listens, with its real port."""
        return [listener.getsockname()[:2] for listener in self._listeners]

    @property
    def bytes_up(self) -> int:
        """Payload delivered to targets so far."""
        return self._up.delivered_bytes

    @property
    def bytes_down(self) -> int:
        """Payload delivered to clients so far."""
        return self._down.delivered_bytes

    @property
    def max_buffered_bytes(self) -> int:
        """The most bytes that either direction ever held."""
        return max(self._up.max_held_bytes, self._down.max_held_bytes)

    def start(self) -> None:
        """Listen on all routes, and accept clients in the background; traces begin.

        Raises:
            UsageError: A listen address cannot be taken, or a target's name cannot be resolved.
        """
        self._begin_traces(0.0 if self._trace_start_s is None else self._trace_start_s - LEAD_S)
        targets = [_resolve(route.target) for route in self._routes]
        for route in self._routes:
            self._listeners.append(self._listen(route.listen))
        for listener, (family, target) in zip(self._listeners, targets, strict=True):
            start_s = self._trace_start_s if listener is self._listeners[0] else None
            acceptor = threading.Thread(
                target=self._accept, args=(listener, family, target, start_s), name="link-accept", daemon=True
            )
            self._acceptors.append(acceptor)
            acceptor.start()

    def sever(self) -> int:
        """Break all current connections, and say how many: both sides of each have been reset when this returns."""
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            connection.stop()
        for thread in connections.values():
            thread.join()
        return len(connections)

    def freeze(self) -> None:
        """Let nothing move any more: no byte, no end of a stream, no break, and no client reaches its target.

        As with a path that swallows packets, neither side is told. What the kernels' buffers still take is taken.
        """
        for lane in (self._up, self._down):
            lane.gate.shut()

    def thaw(self) -> None:
        """Let everything move on from where it stood; the time in between is lost."""
        for lane in (self._up, self._down):
            lane.gate.open()

    def close(self) -> None:
        """Stop accepting, break what is still connected, and wait for all threads."""
        self._alarm.ring()
        for acceptor in self._acceptors:
            acceptor.join()
        for listener in self._listeners:
            listener.close()
        self.sever()
        self._alarm.close()

    def _begin_traces(self, at_s: float) -> None:
        now_s = time.monotonic()
        for lane in (self._up, self._down):
            lane.begin(now_s, at_s)

    def _listen(self, address: Address) -> socket.socket:
        """A listening socket whose accepted sockets inherit the small buffers."""
        family, resolved = _resolve(address)
        listener = _small_socket(family, self._up, self._down)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(resolved)
            listener.listen()
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise UsageError(
                f"this side cannot listen on {address[0]}:{address[1]}: {error.strerror}; "
                "choose another port (0 takes any free one)"
            ) from error
        return listener

    def _accept(self, listener: socket.socket, family: int, target: Address, trace_start_s: float | None) -> None:
        """Connect clients; traces are at ``trace_start_s`` for the first of them."""
        while self._alarm.wait(listener, select.POLLIN):
            with contextlib.suppress(BlockingIOError, ConnectionAbortedError):  # the client gave up meanwhile
                client, _ = listener.accept()
                if trace_start_s is not None:
                    self._begin_traces(trace_start_s)
                    trace_start_s = None
                self._start_connection(client, _small_socket(family, self._down, self._up), target)

    def _start_connection(self, client: socket.socket, server: socket.socket, target: Address) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            number = self._accepted
            self._accepted += 1
            rngs = (random.Random(f"{self._seed}/up/{number}"), random.Random(f"{self._seed}/down/{number}"))
            connection = Connection(client, server, (self._up, self._down), rngs)
            thread = threading.Thread(target=self._run, args=(connection, target), name="link-up", daemon=True)
            self._connections[connection] = thread
            thread.start()

    def _run(self, connection: Connection, target: Address) -> None:
        try:
            connection.run(target)
        finally:
            with self._lock:
                del self._connections[connection]


def _small_socket(family: int, receives: Lane, sends: Lane) -> socket.socket:
    """A TCP socket without delay whose buffers are no larger than those of a real path."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives.buffer_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sends.buffer_bytes)
    return sock


def _resolve(address: Address) -> tuple[int, Address]:
    """Socket family and numeric address; IPv4 comes first, since `localhost` may name both."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"the host of {address[0]}:{address[1]} cannot be resolved: {error.strerror}") from error
    family, _, _, _, resolved = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, (str(resolved[0]), int(resolved[1]))
