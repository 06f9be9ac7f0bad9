"""No connection leaves this thread for a while: a name of a model is never a reason to download anything.

Libraries of models fetch weights from many places in their code, some of them unasked (a detector's backbone). What
Python's own sockets are asked for passes the interpreter's audit hooks, so one hook refuses it for all of them. Other
threads, which may be training over a connection, do not notice.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_REFUSED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}
_thread = threading.local()


class Offline(OSError):
    """A library wanted a connection."""


@contextmanager
def offline() -> Iterator[None]:
    """Within it, this thread's attempts to connect fail with `Offline`, as they would without a network."""
    _install()
    before = getattr(_thread, "offline", False)
    _thread.offline = True
    try:
        yield
    finally:
        _thread.offline = before


@cache
def _install() -> None:
    sys.addaudithook(_hook)  # can never be taken away again, so it is there only once a library is asked for


def _hook(event: str, _: object) -> None:
    if event in _REFUSED and getattr(_thread, "offline", False):
        raise Offline("models are built without the network, and nothing is downloaded")
