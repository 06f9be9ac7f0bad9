"""Fuzzes a live server on both of its ports, with and without TLS, beside a session that goes on undisturbed."""

import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from common.errors import ConnectionLost, PeerError, SessionGone
from common.training.remote import OpenSession, open_session
from common.training.serve import Server
from common.wire.admission import ClientSecurity
from common.wire.framing import pack
from common.wire.messages import PROTOCOL, Activations, Attach, Challenge, Open, Opened, Ping, Proof
from common.wire.tcp import CONTROL_LIMITS, Connection, connect, expect
from tests.fuzz.mutate import Seed, hostile, scramble
from tests.fuzz.small import Setting, session_frames, settings, upload
from tests.fuzz.steady import HOST, PATIENCE_S, Steady


class LiveFuzzer:
    """Does to a server what no client should; `one` is one connection's worth of it."""

    def __init__(self, server: Server, security: ClientSecurity | None, seed: int) -> None:
        self._server, self._security = server, security
        self._rng = random.Random(seed)
        self._settings = settings(("none", "int8+zstd"))
        self._seeds = [Seed.of(*each) for each in session_frames(self._settings[0])]
        self._dripping: list[threading.Thread] = []
        self._failures: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self._acts: list[tuple[int, Callable[[], str]]] = [
            (3, self._garbage),
            (6, self._first_frames),
            (3, self._opening),
            (6, self._training),
            (2, self._out_of_order),
            (1, self._drip),
            (1, self._half_open),
            (1, self._vanish),
            (2, self._attach_twice),
        ]
        if security is not None:
            self._acts += [(4, self._hostile_tls), (4, self._hostile_proof), (1, self._plain)]

    def steady(self) -> Steady:
        """An honest session."""
        return Steady(self.open(self._settings[0]), self._settings[0])

    def open(self, setting: Setting) -> OpenSession:
        """A session, opened as an edge does; on a busy machine the server has yet to find that others are gone.

        Raises:
            PeerError: the server takes none, or keeps those that are gone for `PATIENCE_S`.
        """
        ports = (self._server.port, self._server.hyperport)
        begun_s = time.monotonic()
        while True:
            try:
                return open_session(HOST, *ports, setting.job, setting.most_bytes, self._security)
            except PeerError as error:
                if "its most" not in str(error) or time.monotonic() - begun_s > PATIENCE_S:
                    raise
            time.sleep(0.1)

    def one(self) -> None:
        """One hostile connection or session, from its beginning to its end.

        Raises:
            AssertionError: the server let it live too long, or answered with something that is no message.
        """
        weights, acts = zip(*self._acts, strict=True)
        (act,) = self._rng.choices(acts, weights)
        self.outcomes[f"{act.__name__.strip('_')}: {act()}"] += 1
        self._dripping = [each for each in self._dripping if each.is_alive()]
        if self._failures:
            raise AssertionError(self._failures[0])

    def finish(self) -> None:
        """Wait for what goes on in the background; nothing of it may be left at the server."""
        for each in self._dripping:
            each.join(PATIENCE_S)
        if self._failures:
            raise AssertionError(self._failures[0])

    def left_over(self) -> int:
        """Connections that the server still serves, when all have had their time to end."""
        never = threading.Event()
        for _ in range(int(PATIENCE_S / 0.1)):
            if not self._server._acceptor._threads:
                break
            never.wait(0.1)
        return len(self._server._acceptor._threads)

    def _garbage(self) -> str:
        rng = self._rng
        data = rng.choice((rng.randbytes(rng.randint(1, 300)), bytes(64), b"GET / HTTP/1.1\r\n\r\n", b"TNDM"))
        with self._socket() as sock:
            return self._until_end(sock, data)

    def _first_frames(self) -> str:
        data = b"".join(self._hostile(-1) for _ in range(self._rng.randint(1, 3)))
        with self._connection() as connection:
            return self._told(connection, data)

    def _opening(self) -> str:
        """Behind an honest `open`, and in the place of one that is almost so."""
        with self._connection(self._server.hyperport) as connection:
            if self._rng.random() < 0.5:
                return self._told(connection, self._hostile(3))
            connection.send(Open(PROTOCOL, "fuzz", self._rng.choice(self._settings).job, 8))
            expect(connection.receive().frame, Opened)
            return self._told(connection, self._hostile(self._rng.choice((5, 5, -1))))

    def _training(self) -> str:
        """In an open session."""
        setting = self._rng.choice(self._settings)
        head, seeds = setting.head(), self._seeds
        with self._session(setting) as session:
            for step in range(self._rng.randrange(3)):
                sent = upload(head, step)
                session.training.send(sent.message, sent.buffers)
                head.backward(head.decode(session.training.receive().frame))
            message = upload(head, self._rng.randrange(2))
            if self._rng.random() < 0.8 and isinstance(message.message, Activations):
                seeds = [Seed.of(message.message, [bytes(each) for each in message.buffers])]
            return self._told(session.training, hostile(self._rng.choice(seeds), self._seeds, self._rng))

    def _out_of_order(self) -> str:
        frames = [b"".join(map(bytes, pack(*each))) for each in session_frames(self._settings[0])]
        self._rng.shuffle(frames)
        if self._rng.random() < 0.5:
            with self._connection() as connection:
                return self._told(connection, b"".join(frames))
        with self._session(self._settings[0]) as session:
            return self._told(self._rng.choice((session.control, session.training)), b"".join(frames))

    def _drip(self) -> str:
        """A byte at a time, in the background: it must be dropped at the end of its handshake's time."""
        data, port = self._hostile(-1) * 10, self._port()

        def drip() -> None:
            never = threading.Event()
            with self._socket(port) as sock, contextlib.suppress(OSError):
                for i in range(len(data)):
                    sock.sendall(data[i : i + 1])
                    never.wait(0.02)
                    if i * 0.02 > PATIENCE_S:
                        self._failures.append("a client that dripped was not dropped")
                        return

        if len(self._dripping) < 4:
            self._dripping.append(threading.Thread(target=drip))
            self._dripping[-1].start()
        return "begun"

    def _half_open(self) -> str:
        """Say nothing, or the half of something, and wait."""
        data = self._hostile(-1)
        with self._socket() as sock:
            return self._until_end(sock, data[: self._rng.choice((0, 1, 31, 40))], close=False)

    def _vanish(self) -> str:
        """Reset the connection at any moment."""
        with self._session(self._settings[0]) as session:
            sent = upload(self._settings[0].head(), 0)
            data = b"".join(map(bytes, pack(sent.message, sent.buffers)))
            session.training.send_parts([data[: self._rng.randrange(1, len(data))]])
            for each in (session.training, session.control):
                each._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "reset"

    def _attach_twice(self) -> str:
        with self._session(self._settings[0]) as session, self._connection(self._server.port) as second:
            name = self._rng.choice((session.name, session.name.upper(), "", "0" * 16))
            second.send(Attach(name, self._rng.choice((bytes(16), b"", session.key[:-1])), self._rng.getrandbits(62)))
            try:
                second.receive()
            except SessionGone:
                return "refused"
        raise AssertionError("a session was attached to without its key")

    def _plain(self) -> str:
        """A client without TLS; it must be told so."""
        with self._socket() as sock, Connection(sock.dup()) as connection:
            connection.send(Ping(1))
            try:
                connection.receive()
            except (PeerError, SessionGone) as error:
                if "takes TLS only" in str(error):
                    return "refused"
        raise AssertionError("a client without TLS was taken, or not told")

    def _hostile_tls(self) -> str:
        """A TLS handshake with a mistake in it, or in what follows it."""
        hello = _client_hello()
        with self._socket() as sock:
            return self._until_end(sock, scramble(hello, self._rng))

    def _hostile_proof(self) -> str:
        if self._security is None:
            return "left out"
        with connect(HOST, self._port(), what="--port") as connection:
            connection.use_tls(self._security.context, hostname=HOST)
            challenge = expect(connection.receive().frame, Challenge)
            if self._rng.random() < 0.3:
                connection.send(Proof(challenge.nonce, self._rng.randbytes(32)))
                return self._told(connection, b"")
            return self._told(connection, self._hostile(self._rng.choice((0, 1, 1, 2, -1))))

    def _hostile(self, index: int) -> bytes:
        """A hostile frame made from the seed of that index; -1 for any."""
        seed = self._rng.choice(self._seeds) if index < 0 else self._seeds[index]
        return hostile(seed, self._seeds, self._rng)

    def _port(self) -> int:
        return self._rng.choice((self._server.port, self._server.hyperport))

    def _socket(self, port: int = 0) -> socket.socket:
        return socket.create_connection((HOST, port or self._port()), timeout=PATIENCE_S)

    @contextlib.contextmanager
    def _connection(self, port: int = 0) -> Iterator[Connection]:
        with connect(HOST, port or self._port(), what="--port") as connection:
            if self._security is not None:
                self._security.introduce(connection, HOST)
            connection.set_timeout(PATIENCE_S)
            connection.set_limits(CONTROL_LIMITS)  # a hostile ping is answered as any other
            yield connection

    @contextlib.contextmanager
    def _session(self, setting: Setting) -> Iterator[OpenSession]:
        session = self.open(setting)
        with session.control, session.training:
            for each in (session.control, session.training):
                each.set_timeout(PATIENCE_S)
                each.set_limits(CONTROL_LIMITS)
            yield session

    def _told(self, connection: Connection, data: bytes) -> str:
        """Send, and read until the end: messages, then an error or a close."""
        try:
            if data:
                connection.send_parts([data])
            if self._rng.random() < 0.9:
                connection._socket.shutdown(socket.SHUT_WR)
            for _ in range(100):
                connection.receive()
        except (PeerError, SessionGone):
            return "a typed error"
        except ConnectionLost as error:
            if "sent nothing" in str(error):
                raise AssertionError("the server neither answered nor closed") from error
            return "closed"
        except OSError:
            return "closed"
        raise AssertionError("the server goes on and on")

    def _until_end(self, sock: socket.socket, data: bytes, *, close: bool = True) -> str:
        """The same without frames of one's own."""
        received = 0
        try:
            sock.sendall(data)
            if close:
                sock.shutdown(socket.SHUT_WR)
            while portion := sock.recv(1 << 16):
                received += len(portion)
        except TimeoutError:
            raise AssertionError("the server neither answered nor closed") from None
        except OSError:
            return "reset"
        return "answered and closed" if received else "closed"


def _client_hello() -> bytes:
    """The first bytes of an honest TLS client."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
