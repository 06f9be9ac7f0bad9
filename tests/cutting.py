"""Connections that break after a number of bytes, wherever that is in a frame, for the tests that need them."""

import contextlib
import random
import select
import socket
import struct
import threading

from common.wire.tcp import Connection
from tests.sockets import HOST, TIMEOUT_S

_RESET = struct.pack("ii", 1, 0)


class Cutter:
    """Makes pairs of connections; each has bytes to live in both directions together, chosen at random.

    Args:
        rng: chooses.
        most_bytes: of one connection; 0 for as many as there are.
    """

    def __init__(self, rng: random.Random, most_bytes: int) -> None:
        self._rng, self.most_bytes = rng, most_bytes
        self.made = 0
        self._threads: list[threading.Thread] = []

    def pair(self) -> tuple[Connection, Connection]:
        """The near and the far end of a new connection."""
        self.made += 1
        near, near_relay = _sockets()
        far_relay, far = _sockets()
        life = self._rng.randrange(self.most_bytes) if self.most_bytes else 1 << 40
        # A connection ends (FIN) or breaks (RST); the latter also loses what was not read yet.
        work = (near_relay, far_relay, life, self._rng.random() < 0.5)
        thread = threading.Thread(target=_carry, args=work, name="cutter", daemon=True)
        self._threads.append(thread)
        thread.start()
        return Connection(near), Connection(far)

    def join(self) -> None:
        """Wait until what carried has ended; both ends are closed."""
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def _sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server((HOST, 0)) as listener:
        near = socket.create_connection(listener.getsockname(), TIMEOUT_S)
        far, _ = listener.accept()
        return near, far


def _carry(one: socket.socket, other: socket.socket, life: int, resets: bool) -> None:
    across = {one: other, other: one}
    with one, other, contextlib.suppress(OSError):
        while life > 0:
            ready, _, _ = select.select([one, other], [], [], TIMEOUT_S)
            if not ready:
                return
            for sock in ready:
                if not (data := sock.recv(min(life, 4096))):
                    return
                across[sock].sendall(data)
                life -= len(data)
                if life <= 0:
                    break
        if resets:
            for sock in (one, other):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
