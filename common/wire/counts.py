"""What Linux knows of a TCP socket's bytes: how many have moved, and when the last ones came.

A thread that receives may run late: another has the core, or the interpreter. The kernel is not.
"""

import fcntl
import socket
import struct
import sys
import time

STAMP_SPACE = socket.CMSG_SPACE(struct.calcsize("@ll"))
"""Room for a stamp, in `socket.recvmsg_into`."""
_LINUX = sys.platform == "linux"
_TCP_INFO = struct.Struct("@120xQQ")  # bytes acknowledged and received, in Linux's tcp_info
_STAMP = struct.Struct("@ll")  # seconds and nanoseconds of the machine's clock
_TIMESTAMPNS = 35  # SO_TIMESTAMPNS, which Python's socket module does not name
_FIONREAD = 0x541B


def kernel_counts(sock: socket.socket) -> tuple[int, int] | None:
    """Bytes out and in, under TLS the encrypted ones; None elsewhere, and of a socket that was closed meanwhile."""
    if not _LINUX:
        return None
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    if len(told) < _TCP_INFO.size:
        return None
    taken, came = _TCP_INFO.unpack(told)
    return taken, came


def ask_stamps(sock: socket.socket) -> bool:
    """Let `socket.recvmsg_into` tell when bytes came; whether the kernel does."""
    if not _LINUX:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def lateness_s(sock: socket.socket, told: list[tuple[int, int, bytes]]) -> float:
    """How long ago the last bytes came, from what came with them; 0 where more has come since, or nobody knows."""
    for level, kind, stamp in told:
        if (level, kind, len(stamp)) == (socket.SOL_SOCKET, _TIMESTAMPNS, _STAMP.size) and not _waiting(sock):
            whole, nanoseconds = _STAMP.unpack(stamp)
            came_s: float = whole + nanoseconds / 1e9
            return max(time.time() - came_s, 0.0)  # below 0 where the clock was set
    return 0.0


def _waiting(sock: socket.socket) -> int:
    """Bytes that have come and were not received."""
    try:
        return int.from_bytes(fcntl.ioctl(sock, _FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0
