"""How much of what strangers do is logged: some lines a minute for each address, and a count of the rest."""

import threading
import time
from collections.abc import Callable

_MOST_ADDRESSES = 1 << 12


class LogLimit:
    """Lets some lines of an address pass in each minute; no number of peers makes a log, or this, grow without end.

    Args:
        lines: of an address in a minute.
        window_s: what a minute is.
        clock: seconds.
    """

    def __init__(self, lines: int = 10, window_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines, self._window_s, self._clock = lines, window_s, clock
        self._seen: dict[str, tuple[float, int]] = {}
        self._cleared_s = clock()
        self._lock = threading.Lock()

    def passes(self, address: str) -> str | None:
        """What to put behind a line about ``address``; None where it is one too many."""
        now_s = self._clock()
        with self._lock:
            if address not in self._seen and len(self._seen) >= _MOST_ADDRESSES:
                address = self._make_room(now_s, address)
            begun_s, count = self._seen.get(address, (now_s, 0))
            left_out = 0
            if now_s - begun_s >= self._window_s:
                begun_s, count, left_out = now_s, 0, max(count - self._lines, 0)
            self._seen[address] = (begun_s, count + 1)
        if count >= self._lines:
            return None
        if left_out:
            return f" ({left_out} lines about {address} were left out before)"
        return "" if count + 1 < self._lines else " (further lines about this address are left out for a minute)"

    def _make_room(self, now_s: float, address: str) -> str:
        """Forget addresses whose minute is over, once a minute; without room, newcomers count as one address."""
        if now_s - self._cleared_s >= self._window_s:
            self._cleared_s = now_s
            self._seen = {each: seen for each, seen in self._seen.items() if now_s - seen[0] < self._window_s}
        return address if len(self._seen) < _MOST_ADDRESSES else "others"
