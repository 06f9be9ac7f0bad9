"""Frames in order and each exactly once, over one connection after the other.

The frames of each direction are numbered by counting. A sender keeps them until the peer is known to have them, as
the very bytes that were sent; when a connection breaks, another one takes its place, each side says how many frames it
has received, and the sender goes on behind them. What a codec remembers is never asked to encode a step again.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from common.errors import ConnectionLost
from common.training.channel import Closed
from common.training.kept import Kept, Parts
from common.wire.messages import Bye, Error
from common.wire.tcp import Connection, Received

_PATIENCE_S = 2.0  # for the last words of a peer that stopped reading


@dataclass
class _Held:
    """The connection of the moment, and how many threads are in a call of it."""

    connection: Connection
    users: int = 0
    sending: bool = False
    """In the midst of a frame."""


class Line:
    """Both directions of a session. One thread may send (`pump`), one receive, others `put`, `detach` and `end`.

    Args:
        connection: the first one, which this owns from here on; None where it comes by `adopt`.
        restore: called with this and the error when there is no connection, in one of the threads that need it; it
            returns when another one has been adopted, or raises. Without it the error ends the line.
        lag: a frame from the peer with number n says that the peer has all frames of this side below n + 1 - lag.
            As many of the last frames are kept in any case, for `kept_from`.
        limit: how many frames may wait to be sent.
        sent: frames sent by this side before.
        received: frames received by this side before.
        kept: the last of the frames sent before, which the peer may not have.
    """

    def __init__(
        self,
        connection: Connection | None = None,
        *,
        restore: Callable[["Line", ConnectionLost], None] | None = None,
        lag: int = 0,
        limit: int = 5,
        sent: int = 0,
        received: int = 0,
        kept: Sequence[Parts] = (),
    ) -> None:
        self._restore, self._lag, self._limit = restore, lag, limit
        self._out = Kept(sent, kept, lag)
        self._received = received
        self._held = _Held(connection) if connection else None
        self._generation = 0
        self._complete = False
        self._ended = False
        self._lost = ConnectionLost("there is no connection")
        self._restoring = False
        self._changed = threading.Condition()
        self.peer = connection.peer if connection else "the peer"
        self.breaks = 0
        """Connections that were lost so far."""
        self.returns = 0
        """Connections that took the place of a lost one."""

    @property
    def sent(self) -> int:
        """Frames that were put so far, and before."""
        return self._out.count

    @property
    def received(self) -> int:
        """Frames that were received so far, and before."""
        return self._received

    @property
    def all_sent(self) -> bool:
        """Whether no frame waits to be sent."""
        return not self._out.waiting

    @property
    def connection(self) -> Connection | None:
        """The connection of the moment."""
        held = self._held
        return held.connection if held else None

    @property
    def ended(self) -> bool:
        """Whether it carries nothing any more."""
        return self._ended

    def kept_from(self, number: int) -> list[Parts]:
        """The frames that were put from ``number`` on.

        Raises:
            ProtocolError: the peer has said before that it needs some of them no more.
        """
        with self._changed:
            return self._out.behind(number)

    def put(self, parts: Parts) -> None:
        """Send a frame; waits while too many wait already. Raises `Closed` where none will be sent any more."""
        with self._changed:
            while self._out.waiting >= self._limit and not self._ended:
                self._changed.wait()
            if self._ended:
                raise Closed
            self._out.add(parts)
            self._changed.notify_all()

    def complete(self) -> None:
        """No more frames will be put; `pump` returns when all are sent."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()

    def pump(self) -> None:
        """Send frames as they are put, until `complete`, on whatever connection there is.

        Raises:
            Closed: the line has ended.
            TandemError: what `restore` raised.
        """
        while True:
            with self._changed:
                while not self._ended and not self._out.waiting:
                    if self._complete:
                        return
                    self._changed.wait()
            with self._use() as (held, generation):
                with self._changed:
                    if generation != self._generation or not self._out.waiting:
                        continue
                    parts, held.sending = self._out.begin(), True
                try:
                    held.connection.send_parts(parts)
                except ConnectionLost as error:
                    lost = error
                else:
                    self._advance(generation)
                    continue
                finally:
                    held.sending = False
            with self._changed:
                # A peer that gives up says why before it closes; that is the better error, and is found by `receive`.
                self._changed.wait_for(lambda: self._generation != generation or self._ended, _PATIENCE_S)
            self._broken(generation, lost)

    def receive(self) -> Received:
        """The next frame of the peer.

        Raises:
            Closed: the line has ended.
            TandemError: what a connection or `restore` raised.
        """
        while True:
            with self._use() as (held, generation):
                try:
                    received = held.connection.receive()
                except ConnectionLost as error:
                    lost = error
                else:
                    with self._changed:
                        if generation != self._generation:
                            continue  # the peer was told that it has not come, and will send it again
                        self._received += 1
                        self._out.forget(self._received - self._lag)
                        return received
            self._broken(generation, lost)

    def detach(self) -> tuple[int, int]:
        """Leave the connection of the moment for another one that is about to come.

        Returns:
            A number for `adopt`, and how many frames were received: from here on none of the old connection counts.
        """
        with self._changed:
            self._lost = ConnectionLost(f"the connection to {self.peer} was left for a newer one")
            self._generation += 1
            self._leave()
            self._changed.notify_all()
            return self._generation, self._received

    def adopt(self, connection: Connection, generation: int, received: int) -> bool:
        """Go on over a connection.

        Args:
            connection: the new one, which this owns from here on where the result is true.
            generation: what `detach` returned.
            received: frames of this side that the peer has received.

        Returns:
            False where the line has ended, or a newer connection came in between.

        Raises:
            ProtocolError: the peer lacks frames that it had before, or has some that were never sent.
        """
        with self._changed:
            if self._ended or generation != self._generation:
                return False
            self._out.rewind(received)
            self.returns += 1
            self._held = _Held(connection)
            self.peer = connection.peer
            self._changed.notify_all()
            return True

    def await_adoption(self, seconds: float) -> bool:
        """Wait until there is a connection; whether one came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._held is not None or self._ended, seconds)

    def await_release(self, connection: Connection) -> None:
        """Wait until a connection is that of this line no more."""
        with self._changed:
            self._changed.wait_for(lambda: self.connection is not connection)

    def pause(self, seconds: float) -> bool:
        """Wait; whether the line has ended meanwhile."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, seconds)

    def interrupt(self) -> None:
        """Take the connection of the moment for lost: its threads notice at once."""
        with self._changed:
            if self._held:
                self._held.connection.shut()

    def end(self, farewell: Error | Bye | None = None, *, patience_s: float = 0.0) -> None:
        """Carry nothing any more; threads in `put`, `pump` and `receive` are woken.

        Args:
            farewell: last words to the peer; a thread in the midst of a frame is waited for.
            patience_s: how long.
        """
        with self._changed:
            if not self._ended:
                self._ended = True
                self._generation += 1
                self._changed.notify_all()
            held = self._held
            # Words within a frame would be some bytes of a tensor to the peer.
            heard = bool(held and farewell and self._changed.wait_for(lambda: not held.sending, patience_s))
        if held and farewell and heard:
            held.connection.refuse(farewell)
        with self._changed:
            self._leave()
            self._changed.notify_all()

    @contextmanager
    def _use(self) -> Iterator[tuple[_Held, int]]:
        """The connection of the moment, brought back where there is none; it is not closed during the block."""
        while (taken := self._take()) is None:
            if self._restore is not None:
                self._restore(self, self._lost)
            # Where that raises, nobody else tries: the error is on its way to whoever ends the line.
            with self._changed:
                self._restoring = False
                self._changed.notify_all()
        held, generation = taken
        try:
            yield held, generation
        finally:
            with self._changed:
                held.users -= 1
                done = not held.users and held is not self._held
                self._changed.notify_all()
            if done:
                held.connection.close()

    def _take(self) -> tuple[_Held, int] | None:
        """The connection of the moment, with one user more; None for the one thread that is to bring it back."""
        with self._changed:
            while self._held is None and not self._ended:
                if self._restore is not None and not self._restoring:
                    self._restoring = True
                    return None
                self._changed.wait()
            if self._ended or self._held is None:
                raise Closed
            self._held.users += 1
            return self._held, self._generation

    def _leave(self) -> None:
        """Let go of the connection; its last user closes it."""
        held, self._held = self._held, None
        if held is None:
            return
        held.connection.shut()
        if not held.users:
            held.connection.close()

    def _advance(self, generation: int) -> None:
        with self._changed:
            if generation == self._generation:
                self._out.advance()
                if self._restore is None:
                    self._out.forget_sent()
                self._changed.notify_all()

    def _broken(self, generation: int, error: ConnectionLost) -> None:
        """The connection of a generation is lost, unless somebody has left it already."""
        with self._changed:
            if generation != self._generation or self._ended:
                return
            self._lost = error
            self._generation += 1
            self.breaks += 1
            self._leave()
            self._changed.notify_all()
        if self._restore is None:
            raise error
