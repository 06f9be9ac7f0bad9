"""A TCP socket as a stream of bytes: calls block in the kernel, which bounds them by silence and by a deadline."""

import socket
import struct
import time
from typing import Protocol

from common.wire.counts import STAMP_SPACE, ask_stamps, lateness_s
from common.wire.framing import Buffer


class Overdue(OSError):
    """The deadline passed, however many bytes came until then."""


class Stream(Protocol):
    """Bytes both ways; receiving and sending may each have a thread of their own. Failures are ``OSError``."""

    def receive_into(self, target: memoryview) -> int:
        """Fill the start of ``target``, which does not reach beyond what the peer is due to send; 0 at the end."""

    def send(self, parts: list[Buffer]) -> int:
        """Send the start of ``parts``; returns how many of their bytes are sent."""


class Plain:
    """The socket itself: scatter-gather out, straight into the final buffer in."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._stamp_space = STAMP_SPACE if ask_stamps(sock) else 0
        self._told: list[tuple[int, int, bytes]] = []
        self.timeout_s = 0.0
        self._deadline_s: float | None = None

    def set_timeout(self, seconds: float) -> None:
        """How long a call waits without one byte moving; 0 for ever."""
        self.timeout_s = seconds
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._bound(option, seconds)

    def set_deadline(self, seconds: float | None) -> None:
        """From now on, when all calls together must have ended; None lifts it.

        It is for the time before the peer has said what it wants: one that sends a byte now and then is never silent.
        """
        self._deadline_s = None if seconds is None else time.monotonic() + seconds
        self.set_timeout(self.timeout_s)

    def receive_into(self, target: memoryview) -> int:
        """Receive until ``target`` is full, or the peer has been silent for the timeout behind its first bytes."""
        self._hasten(socket.SO_RCVTIMEO)
        try:
            n, self._told, *_ = self._socket.recvmsg_into([target], self._stamp_space, socket.MSG_WAITALL)
            return n
        except BlockingIOError:
            self._check_deadline()
            raise

    @property
    def lateness_s(self) -> float:
        """How long ago the last bytes came that were received; 0 where others wait, or the kernel does not tell."""
        return lateness_s(self._socket, self._told)

    def send(self, parts: list[Buffer]) -> int:
        """Hand parts to the kernel."""
        self._hasten(socket.SO_SNDTIMEO)
        try:
            return self._socket.sendmsg(parts)
        except BlockingIOError:
            self._check_deadline()
            raise

    def _hasten(self, option: int) -> None:
        """Let the next call end at the deadline at the latest."""
        if self._deadline_s is not None:
            left_s = self._check_deadline()
            self._bound(option, min(self.timeout_s or left_s, left_s))

    def _check_deadline(self) -> float:
        if self._deadline_s is None:
            return 0.0
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise Overdue
        return left_s

    def _bound(self, option: int, seconds: float) -> None:
        # The kernel takes 0 for no bound at all, so the shortest is a microsecond.
        whole, micro = divmod(max(round(seconds * 1e6), int(seconds > 0)), 1_000_000)
        self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, micro))
