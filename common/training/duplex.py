"""One side's threads around a connection: encode -> send, and receive -> decode, each in its own.

The same on the edge and on the cloud; what is encoded and decoded is given as functions. Threads wait in bounded
channels and in the kernel; nothing polls. The first thread that fails ends them all, and the owner hears its error
at its next call.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from common.errors import ConnectionLost, PeerError, ProtocolError, TandemError
from common.training.channel import Channel, Closed
from common.wire.framing import Buffer
from common.wire.messages import Error, Finish, Finished
from common.wire.tcp import Connection, Received

Out = TypeVar("Out")
In = TypeVar("In")

_LAST = (Finish, Finished)
_PATIENCE_S = 2.0  # for the verdict of a peer that stopped reading


class Duplex(Generic[Out, In]):
    """Carries items both ways over a connection, which it owns.

    Args:
        connection: an attached training connection.
        encode: item -> buffers of its frame (`common.wire.framing.pack`).
        decode: received frame -> item.
        queue_limit: how many items may wait between two threads.
        inbox_limit: how many decoded items may wait for `collect`, if more. An owner that submits several items
            before it collects must leave room for all their answers: else both sides would wait for each other.
    """

    def __init__(
        self,
        connection: Connection,
        encode: Callable[[Out], list[Buffer]],
        decode: Callable[[Received], In],
        queue_limit: int,
        inbox_limit: int = 0,
    ) -> None:
        self._connection = connection
        self._encode, self._decode = encode, decode
        self._outbox: Channel[Out] = Channel(queue_limit)
        self._frames: Channel[list[Buffer]] = Channel(queue_limit)
        self._received: Channel[Received] = Channel(queue_limit)
        self._inbox: Channel[In] = Channel(max(queue_limit, inbox_limit))
        self._submitted = self._sent = 0
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
        except RuntimeError:  # this machine gives no more threads; those that have begun end with the connection
            self._abandon()
            self._connection.shut()
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all threads and the connection; a failure on this side is told to the peer first.

        Raises:
            TandemError: the block ended well, but what was submitted last could not be sent.
        """
        encoding, sending, *_ = self._threads
        unheard = None
        if error is None:
            self._outbox.close()
            encoding.join()
            sending.join()
            if self._sent < self._submitted:
                error = unheard = self._error
        if error is not None:
            self._abandon()
            sending.join(_PATIENCE_S)
            farewell = _farewell(error)
            if farewell and not sending.is_alive():  # else the peer would find it in the midst of another frame
                self._connection.refuse(farewell)
        self._abandon()
        self._connection.shut()
        for thread in self._threads:
            thread.join()
        self._connection.close()
        if unheard is not None:
            raise unheard

    def submit(self, item: Out) -> None:
        """Send an item; waits while ``queue_limit`` items wait already."""
        try:
            self._outbox.put(item)
            self._submitted += 1
        except Closed:
            self._raise()

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
                self._frames.put(self._encode(self._outbox.get()))
        finally:
            self._frames.close()

    def _sending(self) -> None:
        while True:
            parts = self._frames.get()
            try:
                self._connection.send_parts(parts)
                self._sent += 1
            except ConnectionLost:
                # A peer that gives up says why before it closes; that is the better error.
                self._threads[2].join(_PATIENCE_S)
                raise

    def _receiving(self) -> None:
        last = False
        try:
            while not last:
                received = self._connection.receive()
                last = isinstance(received.frame.message, _LAST)
                self._received.put(received)
        finally:
            self._received.close()

    def _decoding(self) -> None:
        try:
            while True:
                self._inbox.put(self._decode(self._received.get()))
        finally:
            self._inbox.close()

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Closed:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the owner, who raises it
            with self._failing:
                if self._error is None or isinstance(error, PeerError):
                    self._error = error
            self._abandon()

    def _abandon(self) -> None:
        for channel in (self._outbox, self._frames, self._received, self._inbox):
            channel.close(drop=True)

    def _raise(self) -> None:
        with self._failing:
            raise self._error or ConnectionLost(f"{self._connection.peer} has ended the session")


def _farewell(error: BaseException) -> Error | None:
    """What to tell the peer about the end of this side; nothing where the peer knows or is gone."""
    if isinstance(error, (ConnectionLost, PeerError)):
        return None
    if isinstance(error, KeyboardInterrupt):
        return Error("failed", "it was interrupted by its user")
    text = str(error) if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
    return Error("protocol" if isinstance(error, ProtocolError) else "failed", text)
