"""One connection over the link: the client's socket, the target's socket and a relay each way."""

import contextlib
import logging
import os
import random
import select
import socket
import struct
import threading

from common.link.lane import Lane
from common.link.relay import Endpoint, Relay

CONNECT_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class Connection:
    """A client's connection and its counterpart at the target, relayed in both directions.

    Args:
        client: The accepted socket; closed when the connection ends.
        server: A socket that is not connected yet; closed when the connection ends.
        lanes: The directions of the link, up (client to server) and down.
        rngs: Sources of jitter for the same directions.
    """

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        lanes: tuple[Lane, Lane],
        rngs: tuple[random.Random, random.Random],
    ) -> None:
        client.setblocking(False)
        server.setblocking(False)
        self._client = Endpoint(client)
        self._server = Endpoint(server)
        self._gates = [lane.gate for lane in lanes]
        self._up = Relay(self._client, self._server, lanes[0], rngs[0], self.stop)
        self._down = Relay(self._server, self._client, lanes[1], rngs[1], self.stop)

    def run(self, target: tuple[str, int]) -> None:
        """Connect to the target and relay until both directions have ended; then close both sockets."""
        try:
            self._connect(target)
        except OSError as error:
            logger.warning("target %s:%d: %s; the client's connection is closed", *target[:2], error)
            self._server.reset = True
        else:
            self._relay()
        finally:
            self._close()

    def stop(self) -> None:
        """Break the connection: both peers get a reset, bytes in flight are lost."""
        self._up.stop()
        self._down.stop()

    def _connect(self, target: tuple[str, int]) -> None:
        for gate in self._gates:  # the target hears of the client when both directions move
            gate.wait(self._up.alarm)
        with contextlib.suppress(BlockingIOError):
            self._server.sock.connect(target)
        if not self._up.alarm.wait(self._server.sock, select.POLLOUT, CONNECT_TIMEOUT_S):
            raise TimeoutError(f"no connection within {CONNECT_TIMEOUT_S:g} s, or the link was broken before")
        code = self._server.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _relay(self) -> None:
        down = threading.Thread(target=self._down.run, name="link-down", daemon=True)
        down.start()
        try:
            self._up.run()
        finally:
            down.join()

    def _close(self) -> None:
        broken = self._up.alarm.rung or self._down.alarm.rung or self._client.reset or self._server.reset
        for relay in (self._up, self._down):
            relay.alarm.close()
        for endpoint in (self._client, self._server):
            if broken:  # on with 0 s to linger: close() sends a reset and drops what is not sent yet
                endpoint.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            endpoint.sock.close()
