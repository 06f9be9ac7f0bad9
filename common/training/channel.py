"""A bounded queue between two threads that can be closed, from either end, at any time."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The channel has been closed and, for a reader, emptied."""


class Channel(Generic[T]):
    """At most ``limit`` items wait; a full channel blocks its writer, an empty one its reader."""

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Append an item; raises `Closed` where nobody will read it."""
        with self._changed:
            while len(self._items) >= self._limit and not self._closed:
                self._changed.wait()
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> T:
        """The oldest item; raises `Closed` where none will come."""
        with self._changed:
            while not self._items:
                if self._closed:
                    raise Closed
                self._changed.wait()
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self, *, drop: bool = False) -> None:
        """No more items are taken; those that wait can still be read, unless they are to be dropped."""
        with self._changed:
            self._closed = True
            if drop:
                self._items.clear()
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)
