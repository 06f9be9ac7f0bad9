"""A flag that also ends the wait for a socket (the self-pipe trick), so that no thread polls flags."""

import select
import socket


class Alarm:
    """Lets threads wait for sockets until it is rung, once and for all."""

    def __init__(self) -> None:
        self.rung = False
        self._bell, self._rope = socket.socketpair()

    def ring(self) -> None:
        """End all waits, now and later: a closed rope makes the bell readable for ever."""
        self.rung = True
        self._rope.close()

    def wait(self, sock: socket.socket, event: int, timeout_s: float | None = None) -> bool:
        """Wait for `event` (select.POLLIN, select.POLLOUT) on `sock`; False if rung or timed out."""
        poller = select.poll()
        poller.register(sock, event)
        poller.register(self._bell, select.POLLIN)
        ready = poller.poll(None if timeout_s is None else timeout_s * 1e3)
        return bool(ready) and not self.rung

    def close(self) -> None:
        """Free the sockets; no thread may be waiting any more."""
        self._rope.close()
        self._bell.close()
