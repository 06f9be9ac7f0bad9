"""One side's threads around a line: encode -> send, and receive -> decode, each in its own.

The same on the edge and on the cloud; what is encoded and decoded is given as functions. Threads wait in bounded
channels and in the kernel; nothing polls. The first thread that fails ends them all, and the owner hears its error
at its next call.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from common.errors import ConnectionLost, PeerError, ProtocolError, SessionGone, TandemError
from common.training.channel import Channel, Closed
from common.training.kept import Parts
from common.training.line import Line
from common.wire.messages import Bye, Error, Finished
from common.wire.tcp import Received

Out = TypeVar("Out")
In = TypeVar("In")

_LAST = (Finished, Bye)
_PATIENCE_S = 2.0  # for a peer that is in the midst of taking a frame


class Duplex(Generic[Out, In]):
    """Carries items both ways over a line, which it owns.

    Args:
        line: over an attached training connection.
        encode: item -> buffers of its frame (`common.wire.framing.pack`); None where nothing is to be sent.
        decode: received frame -> item; None where there is nothing to collect.
        queue_limit: how many items may wait between two threads.
        inbox_limit: how many decoded items may wait for `collect`, if more. An owner that submits several items
            before it collects must leave room for all their answers: else both sides would wait for each other.
        farewell: last words to the peer when all has ended well.
    """

    def __init__(
        self,
        line: Line,
        encode: Callable[[Out], Parts | None],
        decode: Callable[[Received], In | None],
        queue_limit: int,
        inbox_limit: int = 0,
        farewell: Bye | None = None,
    ) -> None:
        self._line = line
        self._encode, self._decode = encode, decode
        self._outbox: Channel[Out] = Channel(queue_limit)
        self._received: Channel[Received] = Channel(queue_limit)
        self._inbox: Channel[In] = Channel(max(queue_limit, inbox_limit))
        self.aside: Channel[Received] = Channel(queue_limit)
        """From ``decode`` to ``encode``, for frames that the next frame is the answer to."""
        self._farewell = farewell
        self._submitted = self._encoded = 0
        self._error: BaseException | None = None
        self._failing = threading.Lock()
        loops = (self._encoding, self._sending, self._receiving, self._decoding)
        self._threads = [
            threading.Thread(target=self._guard, args=(loop,), name=loop.__name__.strip("_"), daemon=True)
            for loop in loops
        ]

    def __enter__(self) -> "Duplex[Out, In]":
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:  # this machine gives no more threads; those that have begun end with the line
            self._abandon()
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all threads and the line; a failure on this side is told to the peer first.

        Raises:
            TandemError: the block ended well, but what was submitted last could not be sent.
        """
        encoding, sending, *_ = self._threads
        unheard = None
        if error is None:
            self._outbox.close()
            encoding.join()
            sending.join()
            if self._encoded < self._submitted or not self._line.all_sent:
                error = unheard = self._error
        farewell = self._farewell if error is None else _last_words(error)
        self._close_channels()
        self._line.end(farewell, patience_s=_PATIENCE_S)
        for thread in self._threads:
            thread.join()
        if unheard is not None:
            raise unheard

    def submit(self, item: Out) -> None:
        """Send an item; waits while ``queue_limit`` items wait already."""
        try:
            self._outbox.put(item)
            self._submitted += 1
        except Closed:
            self._raise()

    def deliver(self, item: In) -> None:
        """Put an item where `collect` finds it, from ``encode``; raises `Closed` where all has ended."""
        self._inbox.put(item)

    def collect(self) -> In:
        """The next item received; waits for it."""
        try:
            return self._inbox.get()
        except Closed:
            self._raise()
            raise

    def arrived(self) -> int:
        """Number of items that `collect` would return at once."""
        return len(self._inbox)

    def _encoding(self) -> None:
        try:
            while True:
                if (parts := self._encode(self._outbox.get())) is not None:
                    self._line.put(parts)
                self._encoded += 1
        except Closed:
            self._outbox.close(drop=True)  # the line may have ended under an owner who waits for room
            raise
        finally:
            self._line.complete()

    def _sending(self) -> None:
        self._line.pump()

    def _receiving(self) -> None:
        last = False
        try:
            while not last:
                received = self._line.receive()
                last = isinstance(received.frame.message, _LAST)
                self._received.put(received)
        finally:
            self._received.close()

    def _decoding(self) -> None:
        try:
            while True:
                if (item := self._decode(self._received.get())) is not None:
                    self._inbox.put(item)
        finally:
            self._inbox.close()
            self.aside.close()

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Closed:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the owner, who raises it
            with self._failing:
                if self._error is None or isinstance(error, PeerError):
                    self._error = error
            self._close_channels()
            if isinstance(error, ConnectionLost):
                self._line.end()

    def _abandon(self) -> None:
        self._close_channels()
        self._line.end()

    def _close_channels(self) -> None:
        self._line.complete()
        for channel in (self._outbox, self._received, self._inbox, self.aside):
            channel.close(drop=True)

    def _raise(self) -> None:
        with self._failing:
            raise self._error or ConnectionLost(f"{self._line.peer} has ended the session")


def _last_words(error: BaseException) -> Error | None:
    """What to tell the peer about the end of this side; nothing where the peer knows or is gone."""
    if isinstance(error, (ConnectionLost, PeerError)):
        return None
    if isinstance(error, KeyboardInterrupt):
        return Error("failed", "it was interrupted by its user")
    text = str(error) if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
    if isinstance(error, SessionGone):
        return Error("gone", text)
    return Error("protocol" if isinstance(error, ProtocolError) else "failed", text)
