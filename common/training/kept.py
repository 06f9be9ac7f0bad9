"""The frames of one direction, numbered by counting: those that were sent, those that wait, those that are kept."""

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from common.errors import ProtocolError
from common.wire.framing import Buffer

Parts: TypeAlias = list[Buffer]
"""A frame, as `common.wire.framing.pack` makes it."""


class Kept:
    """What a sender holds. Not for several threads at once.

    Args:
        sent: frames that were sent before.
        kept: the last of them, which the peer may not have.
        lag: as many of the last frames are kept in any case.
    """

    def __init__(self, sent: int = 0, kept: Sequence[Parts] = (), lag: int = 0) -> None:
        self._frames = deque(kept)
        self._first = sent - len(kept)
        self._cursor = self._begun = sent
        self._lag = lag

    @property
    def count(self) -> int:
        """Frames that were added so far, and before."""
        return self._first + len(self._frames)

    @property
    def waiting(self) -> int:
        """Frames that were not sent yet, on the connection of the moment."""
        return self.count - self._cursor

    def add(self, parts: Parts) -> None:
        """One more."""
        self._frames.append(parts)

    def begin(self) -> Parts:
        """The next frame to be sent; the peer may have it from now on."""
        self._begun = max(self._begun, self._cursor + 1)
        return self._frames[self._cursor - self._first]

    def advance(self) -> None:
        """It is sent."""
        self._cursor += 1

    def rewind(self, received: int) -> None:
        """Go on behind what the peer has received.

        Raises:
            ProtocolError: it lacks frames that it had before, or has some that were never sent.
        """
        if not self._first <= received <= self._begun:
            raise ProtocolError(
                f"the peer says that it has received {received} frames; it can be {self._first} to {self._begun}"
            )
        self._cursor = received
        self.forget(received)

    def forget(self, number: int) -> None:
        """Keep no frames below a number, as the peer has them, but for the last ones."""
        while self._first < min(number, self._cursor, self.count - self._lag):
            self._frames.popleft()
            self._first += 1

    def forget_sent(self) -> None:
        """Keep no frames that were sent, as nobody will ask for them."""
        self.forget(self._cursor)

    def behind(self, number: int) -> list[Parts]:
        """The frames from ``number`` on.

        Raises:
            ProtocolError: some of them are not kept any more.
        """
        if not self._first <= number <= self.count:
            raise ProtocolError(f"frames from {number} on are asked for; {self._first} to {self.count} are kept")
        return list(self._frames)[number - self._first :]
