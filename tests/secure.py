"""Both sides of a protected connection in this process, for the tests that need them."""

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from common.wire.admission import ClientSecurity, ServerSecurity
from common.wire.certificates import create
from common.wire.security import client_security, server_security
from common.wire.tcp import HANDSHAKE_LIMITS, Connection
from tests.sockets import HOST, TIMEOUT_S, sockets


def made(folder: Path, names: Sequence[str] = (HOST,), days: int = 100) -> tuple[ServerSecurity, ClientSecurity]:
    """What a server and a client take from a new folder."""
    create(folder, names, days, ())
    return server_side(folder), client_side(folder)


def server_side(folder: Path) -> ServerSecurity:
    security = server_security(HOST, folder, insecure=False)
    assert security is not None
    return security


def client_side(folder: Path) -> ClientSecurity:
    security = client_security(HOST, folder, insecure=False)
    assert security is not None
    return security


@contextmanager
def pair() -> Iterator[tuple[Connection, Connection]]:
    """A client's and a server's end, both as they are before their first word."""
    limits = HANDSHAKE_LIMITS
    with sockets() as (near, far), Connection(near, limits=limits) as mine, Connection(far, limits=limits) as theirs:
        yield mine, theirs


def outcomes(
    ends: tuple[Connection, Connection], client: Callable[[], object], server: Callable[[], object]
) -> tuple[BaseException | None, BaseException | None]:
    """How two sides end that talk with each other; one that fails closes its end, as programs do."""

    def run(end: Connection, side: Callable[[], object]) -> None:
        try:
            side()
        except BaseException:
            end.close()
            raise

    with ThreadPoolExecutor(2) as pool:
        mine, theirs = pool.submit(run, ends[0], client), pool.submit(run, ends[1], server)
        return mine.exception(TIMEOUT_S), theirs.exception(TIMEOUT_S)


def handshake(
    client: ClientSecurity, server: ServerSecurity, host: str = HOST
) -> tuple[BaseException | None, BaseException | None]:
    """How a client's and a server's first words with each other end."""
    with pair() as (near, far):
        return outcomes((near, far), lambda: client.introduce(near, host), lambda: server.admit(far))


@contextmanager
def protected(
    securities: tuple[ServerSecurity, ClientSecurity], buffer_bytes: int = 0
) -> Iterator[tuple[Connection, Connection]]:
    """Both ends of a connection that has been admitted."""
    server, client = securities
    with sockets(buffer_bytes) as (near, far), Connection(near) as mine, Connection(far) as theirs:
        with ThreadPoolExecutor(1) as pool:
            admitted = pool.submit(server.admit, theirs)
            client.introduce(mine, HOST)
            admitted.result(TIMEOUT_S)
        for each in (mine, theirs):
            each.set_timeout(TIMEOUT_S)
        yield mine, theirs


def drained(sock: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    data = b""
    try:
        while portion := sock.recv(1 << 16):
            data += portion
    except ConnectionResetError:
        pass
    return data
