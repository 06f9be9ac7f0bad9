"""What Linux has counted of a TCP socket: bytes that the peer's machine has taken, and bytes that have come from it."""

import socket
import struct
import sys

_TCP_INFO = struct.Struct("@120xQQ")  # bytes acknowledged and received, in Linux's tcp_info


def kernel_counts(sock: socket.socket) -> tuple[int, int] | None:
    """Bytes out and in, under TLS the encrypted ones; None elsewhere, and of a socket that was closed meanwhile."""
    if sys.platform != "linux":
        return None
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    if len(told) < _TCP_INFO.size:
        return None
    taken, came = _TCP_INFO.unpack(told)
    return taken, came
