"""Limits before anyone is known: connections, addresses, time; and that a log does not fill."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConnectionLost, PeerError, SecurityError
from common.training.acceptor import Acceptor, Admission
from common.training.quiet import LogLimit
from common.wire.admission import ServerSecurity
from common.wire.framing import FrameReader, feed, pack
from common.wire.messages import Error, Ping
from common.wire.tcp import Connection, connect, listen
from tests.secure import client_side, drained, made
from tests.sockets import HOST, TIMEOUT_S

pytestmark = pytest.mark.timeout(60)


def answer(connection: Connection) -> None:
    """Serves a connection: the first message, and then any number."""
    connection.receive()
    connection.set_deadline(None)
    connection.send(Ping(1))
    while connection.receive():
        connection.send(Ping(2))


@contextlib.contextmanager
def accepting(security: ServerSecurity | None = None, **limits: Any) -> Iterator[int]:
    listener = listen(HOST, 0, what="--port")
    port: int = listener.getsockname()[1]
    acceptor = Acceptor({listener: answer}, security, Admission(**limits))
    thread = threading.Thread(target=acceptor.serve)
    thread.start()
    try:
        yield port
    finally:
        acceptor.close()
        thread.join(TIMEOUT_S)


def drips(port: int, data: bytes) -> bytes:
    """Send a byte at a time until the server has had enough; all that it answers."""
    never = threading.Event()
    with socket.create_connection((HOST, port), timeout=TIMEOUT_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            for i in range(len(data)):
                sock.sendall(data[i : i + 1])
                never.wait(0.01)
        return drained(sock)


@pytest.mark.slow  # the server goes on reading for a second, so that its error is not lost
def test_a_byte_at_a_time_does_not_stretch_the_handshake() -> None:
    with accepting(handshake_s=0.1) as port:
        (frame,) = feed(FrameReader(), drips(port, b"".join(map(bytes, pack(Ping(0)))) * 10))
    assert isinstance(frame.message, Error)
    assert "was not through with its handshake after 0.1 s" in frame.message.text


def test_nor_does_it_under_tls(tmp_path: Path) -> None:
    server, _ = made(tmp_path)
    hello = b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03" + bytes(240)
    with accepting(server, handshake_s=0.1) as port:
        assert b"TNDM" not in drips(port, hello)


def test_silence_ends_a_handshake_as_well() -> None:
    with accepting(handshake_s=0.1) as port, socket.create_connection((HOST, port), timeout=TIMEOUT_S) as sock:
        assert b"was not through with its handshake" in drained(sock)


def test_behind_the_first_message_the_deadline_is_lifted() -> None:
    with accepting(handshake_s=0.1) as port, connect(HOST, port, what="--port") as connection:
        connection.send(Ping(0))
        connection.receive()
        threading.Event().wait(0.12)
        connection.send(Ping(0))
        assert connection.receive().frame.message == Ping(2)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"connections": 1}, "this server has 1 connections, its most; try again later"),
        ({"per_address": 1}, "this server has 1 connections from 127.0.0.1, the most of one address"),
    ],
)
def test_connections_too_many_are_turned_away_in_words(limits: dict[str, Any], words: str) -> None:
    with accepting(**limits) as port, connect(HOST, port, what="--port") as first:
        first.send(Ping(0))
        first.receive()
        with connect(HOST, port, what="--port") as second, pytest.raises(PeerError, match=words) as caught:
            second.receive()
        assert "refused the connection" in str(caught.value)
        first.send(Ping(0))
        assert first.receive().frame.message == Ping(2)


def test_a_place_is_free_again_when_its_connection_has_ended() -> None:
    with accepting(connections=1, per_address=1) as port:
        for _ in range(5):
            while not served(port):  # the server hears a moment later that the one before has gone
                pass


def served(port: int) -> bool:
    with connect(HOST, port, what="--port") as connection:
        connection.send(Ping(0))
        try:
            return connection.receive().frame.message == Ping(1)
        except (ConnectionLost, PeerError):
            return False


def test_under_tls_they_are_turned_away_by_an_alert(tmp_path: Path) -> None:
    server, client = made(tmp_path)
    with (
        accepting(server, connections=0) as port,
        connect(HOST, port, what="--port") as connection,
        pytest.raises(SecurityError, match="it turned the connection away; it may have too many"),
    ):
        client.introduce(connection, HOST)


def test_a_machine_without_threads_to_spare_goes_on_accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = threading.Thread.start, [1]

    def start(self: threading.Thread) -> None:
        if self.name == "session" and failures:
            failures.pop()
            raise RuntimeError("can't start new thread")
        real(self)

    with accepting() as port:
        monkeypatch.setattr(threading.Thread, "start", start)
        with connect(HOST, port, what="--port") as first, pytest.raises(PeerError, match="can't start new thread"):
            first.receive()
        assert served(port)


def test_strangers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), accepting() as port:
        for _ in range(40):
            with socket.create_connection((HOST, port), timeout=TIMEOUT_S) as sock:
                sock.sendall(b"\0" * 32)
                sock.shutdown(socket.SHUT_WR)
                drained(sock)
    assert len(caplog.records) == 10
    assert caplog.records[0].getMessage().startswith("127.0.0.1:")
    assert caplog.records[-1].getMessage().endswith("(further lines about this address are left out for a minute)")


def test_a_client_of_another_token_is_logged_with_its_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server, _ = made(tmp_path)
    (tmp_path / "edge" / "token").write_text("x" * 43)
    other = client_side(tmp_path / "edge")
    with (
        caplog.at_level(logging.WARNING),
        accepting(server) as port,
        connect(HOST, port, what="--port") as connection,
        pytest.raises(PeerError, match="did not take the token"),
    ):
        other.introduce(connection, HOST)
    (line,) = [each.getMessage() for each in caplog.records if "admitted" in each.getMessage()]
    assert line.startswith("127.0.0.1:")
    assert line.endswith("was not admitted: its token is another one than here")


class TestLogLimit:
    def test_counts_what_it_leaves_out(self) -> None:
        now_s = [0.0]
        limit = LogLimit(lines=2, window_s=10, clock=lambda: now_s[0])
        first = [limit.passes("a") for _ in range(5)]
        now_s[0] = 10.0
        assert first == ["", " (further lines about this address are left out for a minute)", None, None, None]
        assert limit.passes("a") == " (3 lines about a were left out before)"
        assert limit.passes("b") == ""

    def test_any_number_of_addresses_takes_little_memory_and_few_lines(self) -> None:
        limit = LogLimit(lines=2, clock=lambda: 0.0)
        told = sum(limit.passes(str(address)) is not None for address in range(10_000))
        assert told <= 4096 + 2
        assert len(limit._seen) <= 4097
