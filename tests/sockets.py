"""Both ends of a TCP connection of this machine, for the tests that need one."""

import contextlib
import socket
from collections.abc import Iterator

HOST = "127.0.0.1"
TIMEOUT_S = 20.0


@contextlib.contextmanager
def sockets(buffer_bytes: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The near and the far end; with kernel buffers as small as the kernel allows, where asked for."""
    with socket.create_server((HOST, 0)) as listener, socket.socket() as near:
        if buffer_bytes:
            for each in (listener, near):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        near.settimeout(TIMEOUT_S)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        far.settimeout(TIMEOUT_S)
        with far:
            yield near, far
