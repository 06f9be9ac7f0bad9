"""One direction of a connection: a thread reads at the rate of the link, another writes after its delay."""

import logging
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from common.link.alarm import Alarm
from common.link.lane import Lane
from common.link.pacer import Delay

logger = logging.getLogger(__name__)


@dataclass
class Endpoint:
    """One of the two sockets of a connection, not blocking."""

    sock: socket.socket
    reset: bool = False
    """Whether the peer at this socket broke the connection."""


class Relay:
    """Carries one direction of a connection, from `source` to `sink`.

    Args:
        source: Where bytes are read, at the rate of the lane.
        sink: Where they are delivered, after the delay of the lane.
        lane: The direction of the link that carries them, shared with other connections.
        rng: Source of the jitter.
        abort: Breaks the whole connection; called when a reset of `source` has travelled through the link.
    """

    def __init__(
        self, source: Endpoint, sink: Endpoint, lane: Lane, rng: random.Random, abort: Callable[[], None]
    ) -> None:
        self._source = source
        self._sink = sink
        self._lane = lane
        self._delay = Delay(lane.delay_s, lane.jitter_s, rng)
        self._abort = abort
        self.alarm = Alarm()
        self._parcels: deque[tuple[float, bytes]] = deque()  # (instant of delivery, bytes; none at the end)
        self._held_bytes = 0
        self._full = False  # whether the reader waits for room
        self._stall_s = 0.0  # time in which the receiver took nothing, since the reader last asked
        lock = threading.Lock()
        self._reader = threading.Condition(lock)
        self._writer = threading.Condition(lock)

    def run(self) -> None:
        """Carry bytes until the end of the stream is delivered, an error, or `stop()`."""
        writer = threading.Thread(target=self._write, name="link-writer", daemon=True)
        writer.start()
        try:
            self._read()
        except BaseException:
            self._abort()
            raise
        finally:
            writer.join()
            self._lane.drop(self._held_bytes)

    def stop(self) -> None:
        """End both threads at once; what they hold is lost."""
        self.alarm.ring()
        with self._reader:
            self._reader.notify()
            self._writer.notify()
        self._lane.gate.nudge()

    def _read(self) -> None:
        due_s = time.monotonic()  # when the link is free for the next bytes of this connection
        while self._wait_for_turn(due_s):
            data, waited = self._receive()
            # Bytes that lay ready count from when this thread was due: that it woke up late must not slow the
            # link. Time in which the receiver took nothing, however, is lost on a real link too.
            now_s, stall_s = time.monotonic(), self._take_stall()
            arrival_s = now_s if waited else min(now_s, due_s + stall_s)
            due_s = self._lane.pacer.reserve(arrival_s, len(data))
            self._enqueue(self._delay.deliver_at(due_s), data)
            if not data:
                return

    def _wait_for_turn(self, due_s: float) -> bool:
        """Sleep until `due_s` and until there is room for a chunk; False once stopped."""
        with self._reader:
            while not self.alarm.rung:
                left_s = due_s - time.monotonic()
                if left_s > 0:
                    self._reader.wait(min(left_s, threading.TIMEOUT_MAX))  # a trace may have ended for good
                elif self._held_bytes + self._lane.chunk_bytes > self._lane.capacity_bytes:
                    self._full = True
                    self._reader.wait()
                else:
                    self._full = False
                    return True
        return False

    def _take_stall(self) -> float:
        with self._reader:
            stall_s, self._stall_s = self._stall_s, 0.0
        return stall_s

    def _receive(self) -> tuple[bytes, bool]:
        """The next bytes (none at the end of the stream), and whether they had to be waited for."""
        waited = self._lane.gate.wait(self.alarm)
        try:
            while (data := self._receive_now()) is None:
                waited = True
                if not self.alarm.wait(self._source.sock, select.POLLIN):
                    return b"", waited
                self._lane.gate.wait(self.alarm)
        except OSError as error:
            logger.debug("the sender broke the connection: %s", error)
            self._source.reset = True
            return b"", waited
        return data, waited

    def _receive_now(self) -> bytes | None:
        try:
            return self._source.sock.recv(self._lane.chunk_bytes)
        except BlockingIOError:
            return None

    def _enqueue(self, deliver_at_s: float, data: bytes) -> None:
        self._lane.hold(len(data))
        with self._writer:
            self._held_bytes += len(data)
            self._parcels.append((deliver_at_s, data))
            if len(self._parcels) == 1:
                self._writer.notify()

    def _write(self) -> None:
        while (data := self._next_parcel()) is not None:
            self._lane.gate.wait(self.alarm)
            try:
                delivered = not self.alarm.rung and self._deliver(data)
            except OSError as error:
                logger.debug("the receiver broke the connection: %s", error)
                self._sink.reset = True
                delivered = False
            if not delivered:
                self.stop()
            if not data or not delivered:
                return

    def _next_parcel(self) -> bytes | None:
        """Sleep until the oldest parcel is to be delivered; None once stopped."""
        with self._writer:
            while not self.alarm.rung:
                left_s = self._parcels[0][0] - time.monotonic() if self._parcels else None
                if left_s is not None and left_s <= 0:
                    return self._parcels.popleft()[1]
                self._writer.wait(None if left_s is None else min(left_s, threading.TIMEOUT_MAX))
        return None

    def _deliver(self, data: bytes) -> bool:
        """Send the bytes, or pass on the end of the stream; False if stopped before all were sent."""
        if not data:
            if self._source.reset:
                self._abort()
            else:
                self._sink.sock.shutdown(socket.SHUT_WR)
            return True
        unsent = memoryview(data)
        while unsent:
            unsent = unsent[self._send_now(unsent) :]
            if unsent:
                stalled_s = time.monotonic()
                if not self.alarm.wait(self._sink.sock, select.POLLOUT):
                    return False
                with self._reader:
                    self._stall_s += time.monotonic() - stalled_s
        self._lane.deliver(len(data))
        with self._reader:
            self._held_bytes -= len(data)
            if self._full:
                self._reader.notify()
        return True

    def _send_now(self, data: memoryview) -> int:
        try:
            return self._sink.sock.send(data)
        except BlockingIOError:
            return 0
