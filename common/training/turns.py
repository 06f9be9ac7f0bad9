"""Who computes next: sessions take turns in the order in which they ask; none waits for more than a step of each."""

import threading
from collections import deque
from types import TracebackType


class Turns:
    """Admits ``places`` threads at a time, first come, first served; a context manager.

    `threading.Lock` makes no promise about the order: with many sessions some would starve.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> "Turns":
        with self._lock:
            if self._free and not self._waiting:
                self._free -= 1
                return self
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # the place goes from hand to hand
            else:
                self._free += 1
