"""TLS over a `Plain` stream, safe for a thread that receives beside one that sends.

An ``ssl.SSLSocket`` is not: OpenSSL's connection object may be used by one thread at a time, and Python either does
not see to that (up to 3.12) or holds its lock while a call waits for the peer (3.13.6), so that neither can go on.
Here OpenSSL works on memory only, under a lock that is never held while a byte is waited for; the socket is used
outside of it, by both threads at once, as without TLS.
"""

import errno
import ssl
import threading

from common.wire.framing import Buffer
from common.wire.stream import Plain

_CHUNK_BYTES = 1 << 18  # encrypted or received at a time
_SMALL_BYTES = 1 << 14  # buffers below are joined: each piece takes a record of its own
_RECORD_HEADER = 5
_RECORD_OVERHEAD = 22  # a record's header, its type and its tag: what it has at least beyond its content
_RECORD_TYPES = range(20, 24)
_MOST_UNSENT = 1 << 16  # bytes that reading may leave to be sent: a peer that asks for new keys for ever is cut off


class NotTls(OSError):
    """What the peer sends is no TLS."""

    def __init__(self, first: bytes) -> None:
        super().__init__(errno.EPROTO, f"its first bytes are {first!r}")
        self.first = first


class Records:
    """Where TLS records begin and end in the bytes received, so that a wait can be for all that is sure to come."""

    def __init__(self) -> None:
        self._header = b""
        self._length = 0
        self.held = 0
        """Bytes of the record at hand that have come."""

    @property
    def missing(self) -> int:
        """Bytes that are due at least before anything more can be read."""
        return (self._length if self._length else _RECORD_HEADER) - self.held

    def feed(self, data: memoryview) -> None:
        """Take note of received bytes."""
        while len(data):
            if not self._length:
                taken = bytes(data[: _RECORD_HEADER - len(self._header)])
                self._header += taken
                self.held += len(taken)
                data = data[len(taken) :]
                if len(self._header) < _RECORD_HEADER:
                    return
                self._length = _RECORD_HEADER + int.from_bytes(self._header[3:], "big")
            taken_bytes = min(self._length - self.held, len(data))
            self.held += taken_bytes
            data = data[taken_bytes:]
            if self.held == self._length:
                self._header, self._length, self.held = b"", 0, 0


class Tls:
    """One side of a TLS connection; `handshake` comes first, then it is a `Stream`.

    Args:
        plain: carries the encrypted bytes.
        context: certificates, and what is asked of the peer's.
        hostname: on the client's side, the name or address that the server's certificate must be for.
    """

    def __init__(self, plain: Plain, context: ssl.SSLContext, *, hostname: str | None = None) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=hostname is None, server_hostname=hostname
        )
        self._lock = threading.Lock()
        self._cipher = memoryview(bytearray(_SMALL_BYTES))  # grows where there is more to come than words
        self._records = Records()
        self._ended = False

    def handshake(self) -> None:
        """Agree on keys and check certificates.

        Raises:
            NotTls: the peer speaks something else.
            ssl.SSLError: a certificate or a protocol version will not do, here or there; the peer has been told.
            OSError: the peer closed, was silent, or took too long.
        """
        first = True
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_pending()
                self._fill(self._records.missing)
                if self._ended:
                    raise ConnectionAbortedError(errno.ECONNABORTED, "it was closed in the TLS handshake") from None
                if first and self._cipher[0] not in _RECORD_TYPES:
                    raise NotTls(bytes(self._cipher[:_RECORD_HEADER])) from None
                first = False
            except ssl.SSLError:
                self._send_pending()  # the alert that tells the peer
                raise
            else:
                self._send_pending()
                return

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's own certificate (DER), where it showed one."""
        return self._tls.getpeercert(binary_form=True)

    def receive_into(self, target: memoryview) -> int:
        """Fill the start of ``target`` with what the peer sent; 0 at the end of the stream."""
        while not (filled := self._decrypt(target)):
            if self._ended:
                return 0
            # No record is shorter than its content and its overhead, so all of these bytes are sure to come.
            self._fill(max(self._records.missing, len(target) + _RECORD_OVERHEAD - self._records.held))
        return filled

    def send(self, parts: list[Buffer]) -> int:
        """Encrypt and send the start of ``parts``."""
        pieces = _portion(parts)
        with self._lock:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._tls.write(rest) :]  # a record at a time
            # What the receiving thread's reading left to be sent (an answer to a change of keys) goes with it.
            cipher = self._outgoing.read()
        self._send_all(cipher)
        return sum(map(len, pieces))

    def _decrypt(self, target: memoryview) -> int:
        filled = 0
        with self._lock:
            try:
                while filled < len(target):
                    # Into the buffer itself: it then returns the number of bytes, which typeshed does not know.
                    n = int(self._tls.read(len(target) - filled, target[filled:]))
                    if not n:
                        self._ended = True
                        break
                    filled += n
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                self._ended = True
            if self._outgoing.pending > _MOST_UNSENT:
                raise OSError(errno.EPROTO, "it asks for new keys without end")
        return filled

    def _fill(self, nbytes: int) -> None:
        """Receive up to ``nbytes`` more encrypted bytes; waits for them outside the lock."""
        if nbytes > len(self._cipher) < _CHUNK_BYTES:
            self._cipher = memoryview(bytearray(_CHUNK_BYTES))
        received = self._cipher[: self._plain.receive_into(self._cipher[:nbytes])]
        self._records.feed(received)
        with self._lock:
            if len(received):
                self._incoming.write(received)
            else:
                self._incoming.write_eof()
                self._ended = True

    def _send_pending(self) -> None:
        if self._outgoing.pending:
            self._send_all(self._outgoing.read())

    def _send_all(self, cipher: bytes) -> None:
        rest = memoryview(cipher)
        while rest:
            rest = rest[self._plain.send([rest]) :]


def _portion(parts: list[Buffer]) -> list[Buffer]:
    """The start of ``parts``, about a chunk long: large ones in place, neighbours that are small as one."""
    pieces: list[Buffer] = []
    small = bytearray()
    nbytes = 0
    for part in parts:
        if len(part) >= _SMALL_BYTES:
            if small:
                pieces.append(small)
                small = bytearray()
            pieces.append(memoryview(part)[: _CHUNK_BYTES - nbytes])
        else:
            small += part
        nbytes += len(part)
        if nbytes >= _CHUNK_BYTES:
            break
    return [*pieces, small] if small else pieces
