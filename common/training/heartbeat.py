"""The edge's pulse: it asks the server now and then, and takes the connection for lost where nothing moves any more.

A half-open connection (a machine without power, a path that swallows packets) is silent for hours to who only waits.
A slow one is not dead: whatever moves on either connection, however slowly, counts as life.
"""

import logging
import threading
import time
from types import TracebackType

from common.errors import ConnectionLost, PeerSilent, TandemError
from common.naming import printable
from common.training.line import Line
from common.training.remote import Cloud, OpenSession, reattach_control
from common.wire.messages import Ping, Pong
from common.wire.tcp import Connection, expect

log = logging.getLogger(__name__)

BEAT_S = 2.0
DEAD_S = 10.0
"""Without a byte moving anywhere, while a ping waits for its answer."""


class Heartbeat:
    """Owns the session's control connection, and brings it back where it breaks; a context manager.

    Args:
        cloud: the server.
        session: as opened.
        line: the session's training.
        beat_s: seconds between pings.
        dead_s: how long nothing may move.
    """

    def __init__(
        self, cloud: Cloud, session: OpenSession, line: Line, *, beat_s: float = BEAT_S, dead_s: float = DEAD_S
    ) -> None:
        self._cloud, self._session, self._line = cloud, session, line
        self._beat_s, self._dead_s = beat_s, dead_s
        self._control: Connection | None = session.control
        self._number = 0
        self._asked_s: float | None = None
        self._moved_s = time.monotonic()
        self._progress = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.rtt_s = session.rtt_s
        """Round-trip time of the last ping."""

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._control is not None:
            self._control.shut()
        self._thread.join()
        if self._control is not None:
            self._control.close()

    def _run(self) -> None:
        while not self._ending.wait(self._beat_s):
            try:
                self._beat()
            except PeerSilent:
                self._watch()
            except ConnectionLost as error:
                if self._ending.is_set():
                    return
                log.debug("control connection: %s", printable(str(error)))
                self._drop()
                self._watch()
            except TandemError as error:  # the server has another opinion; the training connection hears it as well
                log.debug("control connection: %s", printable(str(error)))
                return

    def _beat(self) -> None:
        if self._control is None:
            self._control = reattach_control(self._cloud, self._session.name, self._session.key)
            self._asked_s = None
        # Short waits, so that the training connection is looked at in between.
        self._control.set_timeout(self._beat_s)
        if self._asked_s is None:
            self._number += 1
            self._asked_s = time.perf_counter()
            self._control.send(Ping(self._number))
        expect(self._control.receive().frame, Pong)
        self.rtt_s, self._asked_s = time.perf_counter() - self._asked_s, None
        self._moved_s = time.monotonic()

    def _drop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _watch(self) -> None:
        """The server did not answer: see whether training moves, and take its connection for lost where it does not."""
        training = self._line.connection
        progress = training.progress if training else 0
        if training is None or progress != self._progress:
            self._progress, self._moved_s = progress, time.monotonic()
        elif time.monotonic() - self._moved_s > self._dead_s:
            log.warning("nothing has moved to or from %s for %.0f s; connecting again", training.peer, self._dead_s)
            self._line.interrupt()
            self._moved_s = time.monotonic()
