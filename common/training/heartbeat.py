"""The edge's pulse: it asks the server now and then, and takes the connection for lost where nothing moves any more.

A half-open connection (a machine without power, a path that swallows packets) is silent for hours to who only waits.
A slow one is not dead: whatever moves on either connection, however slowly, counts as life. The same pings tell the
round trip, and with a body the rates of the link, where training does not.
"""

import logging
import threading
import time
from types import TracebackType

from common.errors import ConnectionLost, PeerError, PeerSilent, TandemError
from common.naming import printable
from common.training.line import Line
from common.training.monitor import LinkMonitor
from common.training.pace import Paces
from common.training.probing import Pinger
from common.training.remote import Cloud, OpenSession, reattach_control

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
        monitor: told what the pings show of the link.
        paces: told and heard of with the pings, by a party that trains with others.
        beat_s: seconds between pings.
        dead_s: how long nothing may move.
    """

    def __init__(
        self,
        cloud: Cloud,
        session: OpenSession,
        line: Line,
        monitor: LinkMonitor | None = None,
        paces: Paces | None = None,
        *,
        beat_s: float = BEAT_S,
        dead_s: float = DEAD_S,
    ) -> None:
        self._cloud, self._session, self._line = cloud, session, line
        self._monitor, self._paces = monitor or LinkMonitor(), paces
        self._monitor.answered(session.rtt_s)
        self._beat_s, self._dead_s = beat_s, dead_s
        self._pinger: Pinger | None = Pinger(session.control, self._monitor, self._paces)
        self._moved_s = time.monotonic()
        self._progress = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if (pinger := self._pinger) is not None:
            pinger.connection.shut()
        self._thread.join()
        self._drop()

    def _run(self) -> None:
        pause_s = self._beat_s
        while not self._ending.wait(pause_s):
            pause_s = self._beat_s
            try:
                self._beat()
            except PeerSilent:
                pause_s = 0.0  # the next beat waits for the same answer
                self._watch()
            except (ConnectionLost, PeerError) as error:  # a server that is full now may have room soon
                if self._ending.is_set():
                    return
                log.debug("control connection: %s", printable(str(error)))
                self._drop()
                self._watch()
            except TandemError as error:  # the server has another opinion; the training connection hears it as well
                log.debug("control connection: %s", printable(str(error)))
                return

    def _beat(self) -> None:
        if self._pinger is None:
            control = reattach_control(self._cloud, self._session.name, self._session.key)
            self._pinger = Pinger(control, self._monitor, self._paces)
        # Short waits, so that the training connection is looked at in between.
        self._pinger.connection.set_timeout(self._beat_s)
        training = self._line.connection
        self._pinger.beat(training.moved if training else (0, 0))
        self._progress, self._moved_s = training.progress if training else 0, time.monotonic()

    def _drop(self) -> None:
        if self._pinger is not None:
            self._pinger.connection.close()
            self._pinger = None

    def _watch(self) -> None:
        """The server did not answer: see whether training moves, and take its connection for lost where it does not."""
        training = self._line.connection
        progress = training.progress if training else 0
        if training is None or progress != self._progress:
            self._progress, self._moved_s = progress, time.monotonic()
        elif time.monotonic() - self._moved_s > self._dead_s:
            log.warning("nothing has moved to or from %s for %.0f s; connecting again", training.peer, self._dead_s)
            self._line.interrupt()
            self._drop()  # it goes the same way
            self._moved_s = time.monotonic()
