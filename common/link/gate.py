"""What holds a direction of a link still: nothing moves while it is shut, and nothing ends."""

import threading

from common.link.alarm import Alarm


class Gate:
    """Open at first. Threads that would carry something wait while it is shut."""

    def __init__(self) -> None:
        self._shut = False
        self._changed = threading.Condition()

    def shut(self) -> None:
        """From now on all wait."""
        with self._changed:
            self._shut = True

    def open(self) -> None:
        """All go on."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()

    def wait(self, alarm: Alarm) -> bool:
        """Wait until it is open, or the alarm has rung (see `nudge`); whether there was anything to wait for."""
        with self._changed:
            waited = self._shut and not alarm.rung
            self._changed.wait_for(lambda: not self._shut or alarm.rung)
            return waited

    def nudge(self) -> None:
        """An alarm has rung: whoever waits looks at its own."""
        with self._changed:
            self._changed.notify_all()
