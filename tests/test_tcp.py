"""Frames over real sockets on loopback: partial writes, both ways at once, and every way a connection can end."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from common.errors import ConnectionLost, PeerError, ProtocolError
from common.wire.framing import Buffer, Limits, pack
from common.wire.messages import Attach, Attached, Error, Finish, Gradients, Ping
from common.wire.structs import Payload
from common.wire.tcp import HANDSHAKE_LIMITS, Connection, connect, expect, listen
from tests.sockets import HOST, TIMEOUT_S, sockets

pytestmark = pytest.mark.timeout(60)

MESSAGE = Gradients(0, True, 0.5, 1, 2, Payload("none", ()))


@contextlib.contextmanager
def connections(buffer_bytes: int = 0) -> Iterator[tuple[Connection, Connection]]:
    with sockets(buffer_bytes) as (near, far), Connection(near) as mine, Connection(far) as theirs:
        for each in (mine, theirs):
            each.set_timeout(TIMEOUT_S)
        yield mine, theirs


@contextlib.contextmanager
def beside(work: Callable[[], object]) -> Iterator["Future[object]"]:
    """Runs ``work`` in a thread during the block."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield future
        future.exception(TIMEOUT_S)


def reset(sock: socket.socket) -> None:
    """Close so that the peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def one_frame(buffers: list[Buffer] | None = None) -> bytes:
    return b"".join(bytes(part) for part in pack(MESSAGE, buffers or []))


class TestTransfer:
    def test_a_frame_and_its_sizes_and_times(self) -> None:
        with connections() as (mine, theirs):
            sent_bytes = mine.send(MESSAGE, [b"abc", b""])
            received = theirs.receive()
            assert received.frame.message == MESSAGE
            assert [bytes(each) for each in received.frame.buffers] == [b"abc", b""]
            assert received.frame.nbytes == sent_bytes
            assert received.started_s > 0
            assert received.seconds >= 0

    def test_frames_sent_before_anybody_receives_keep_their_order(self) -> None:
        with connections() as (mine, theirs):
            for number in range(50):
                mine.send(Ping(number))
            assert [expect(theirs.receive().frame, Ping).number for _ in range(50)] == list(range(50))

    def test_large_frames_both_ways_at_once(self) -> None:
        up, down = b"u" * (8 << 20), b"d" * (8 << 20)
        with connections() as (mine, theirs), ThreadPoolExecutor(2) as pool:
            sends = [pool.submit(mine.send, MESSAGE, [up]), pool.submit(theirs.send, MESSAGE, [down])]
            assert theirs.receive().frame.buffers[0] == up
            assert mine.receive().frame.buffers[0] == down
            assert len({each.result(TIMEOUT_S) for each in sends}) == 1

    def test_many_buffers_through_small_kernel_buffers(self) -> None:
        buffers = [bytes([i % 256]) * (i % 150) for i in range(3000)]  # beyond what one sendmsg may take
        with connections(buffer_bytes=4096) as (mine, theirs), beside(lambda: mine.send(MESSAGE, buffers)):
            assert [bytes(each) for each in theirs.receive().frame.buffers] == buffers

    def test_one_large_buffer_through_small_kernel_buffers(self) -> None:
        buffer = bytes(range(256)) * 1000
        with connections(buffer_bytes=4096) as (mine, theirs), beside(lambda: mine.send(MESSAGE, [buffer])):
            assert theirs.receive().frame.buffers[0] == buffer

    def test_only_empty_buffers(self) -> None:
        with connections() as (mine, theirs):
            mine.send(MESSAGE, [b""] * 2000)
            assert len(theirs.receive().frame.buffers) == 2000

    def test_a_frame_in_pieces(self) -> None:
        data = one_frame([b"x" * 100])
        with sockets() as (near, far), Connection(near) as mine:

            def send() -> None:
                for i in range(len(data)):
                    far.sendall(data[i : i + 1])

            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with beside(send):
                assert mine.receive().frame.buffers[0] == b"x" * 100


class TestLimits:
    def test_a_client_starts_with_those_of_a_handshake(self) -> None:
        with listen(HOST, 0, what="--port") as listener:
            mine = connect(*listener.getsockname(), what="--port")
            with mine, Connection(listener.accept()[0]) as theirs:
                theirs.send(MESSAGE, [b"x"])
                with pytest.raises(ProtocolError, match=f"limit here is {HANDSHAKE_LIMITS.body_bytes}"):
                    mine.receive()

    def test_they_can_be_raised_between_frames(self) -> None:
        with sockets() as (near, far), Connection(near, limits=HANDSHAKE_LIMITS) as mine, Connection(far) as theirs:
            theirs.send(Attached(0))
            expect(mine.receive().frame, Attached)
            mine.set_limits(Limits(body_bytes=64))
            theirs.send(MESSAGE, [b"x" * 64])
            assert mine.receive().frame.buffers[0] == b"x" * 64
            theirs.send(MESSAGE, [b"x" * 65])
            with pytest.raises(ProtocolError, match="body of 128 bytes; the limit here is 64"):
                mine.receive()


class TestEnds:
    def test_closed_between_frames(self) -> None:
        with connections() as (mine, theirs):
            theirs.send(Finish())
            theirs.close()
            assert mine.receive().frame.message == Finish()
            with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:\d+ closed the connection$"):
                mine.receive()

    @pytest.mark.parametrize("sent", [1, 32, 40, 200])  # in prefix, header, body
    def test_closed_in_the_middle_of_a_frame(self, sent: int) -> None:
        with sockets() as (near, far), Connection(near) as mine:
            far.sendall(one_frame([b"x" * 200])[:sent])
            far.close()
            with pytest.raises(ConnectionLost, match="closed the connection in the middle of a frame"):
                mine.receive()

    def test_reset_while_receiving(self) -> None:
        with sockets() as (near, far), Connection(near) as mine:
            reset(far)
            with pytest.raises(ConnectionLost, match="broke: Connection reset by peer"):
                mine.receive()

    def test_reset_while_sending(self) -> None:
        with sockets() as (near, far), Connection(near) as mine:
            reset(far)
            with pytest.raises(ConnectionLost, match="broke"):
                mine.send(MESSAGE, [bytes(1 << 20)])

    def test_what_was_sent_before_a_close_arrives(self) -> None:
        with connections() as (mine, theirs):
            theirs.send(MESSAGE, [b"x" * 1000])
            theirs.close()
            theirs.close()  # a second time changes nothing
            assert mine.receive().frame.buffers[0] == b"x" * 1000

    def test_a_closed_connection_is_lost_to_its_owner_too(self) -> None:
        with connections() as (mine, _):
            mine.close()
            for use in (lambda: mine.send(Finish()), mine.receive):
                with pytest.raises(ConnectionLost):
                    use()

    def test_a_socket_whose_peer_is_gone_already_is_closed(self) -> None:
        with sockets() as (near, far):
            reset(far)
            with contextlib.suppress(ConnectionResetError):
                near.recv(1)
            with pytest.raises(OSError, match="not connected"):
                Connection(near)
            assert near.fileno() == -1

    @pytest.mark.parametrize("end", [Connection.shut, Connection.close])
    def test_ending_it_wakes_a_receiver_in_another_thread(self, end: Callable[[Connection], None]) -> None:
        with connections() as (mine, theirs):
            theirs.send(Ping(1))
            first = threading.Event()

            def receive() -> None:
                mine.receive()
                first.set()
                mine.receive()

            with beside(receive) as receiver:
                assert first.wait(TIMEOUT_S)
                end(mine)
                assert isinstance(receiver.exception(TIMEOUT_S), ConnectionLost)

    def test_ending_it_wakes_a_sender_in_another_thread(self) -> None:
        with (
            connections(buffer_bytes=4096) as (mine, theirs),
            beside(lambda: mine.send(MESSAGE, [bytes(1 << 22)])) as s,
        ):
            theirs.set_limits(HANDSHAKE_LIMITS)
            with pytest.raises(ProtocolError):  # the frame has begun to come
                theirs.receive()
            mine.shut()
            assert isinstance(s.exception(TIMEOUT_S), ConnectionLost)


class TestSilence:
    def test_a_peer_that_sends_nothing(self) -> None:
        with connections() as (mine, _):
            mine.set_timeout(0.05)
            with pytest.raises(ConnectionLost, match=r"sent nothing for 0\.05 s"):
                mine.receive()

    def test_a_peer_that_stops_within_a_frame(self) -> None:
        with sockets() as (near, far), Connection(near) as mine:
            mine.set_timeout(0.05)
            far.sendall(one_frame([b"x" * 200])[:150])
            with pytest.raises(ConnectionLost, match=r"sent nothing for 0\.05 s"):
                mine.receive()

    def test_a_peer_that_takes_nothing(self) -> None:
        with sockets(buffer_bytes=4096) as (near, _), Connection(near) as mine:
            mine.set_timeout(0.05)
            with pytest.raises(ConnectionLost, match=r"took nothing for 0\.05 s"):
                mine.send(MESSAGE, [bytes(1 << 22)])

    @pytest.mark.slow
    def test_slow_is_not_silent(self) -> None:
        """The whole frame takes longer than the timeout, no gap between its bytes does."""
        data, never = one_frame([b"x" * 100]), threading.Event()
        with sockets() as (near, far), Connection(near) as mine:
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mine.set_timeout(0.8)

            def drip() -> None:
                for start in range(0, len(data), len(data) // 15):
                    far.sendall(data[start : start + len(data) // 15])
                    never.wait(0.08)

            with beside(drip):
                received = mine.receive()
            assert received.seconds > 0.8
            assert received.frame.buffers[0] == b"x" * 100

    def test_fractions_of_seconds_and_none_at_all(self) -> None:
        with connections() as (mine, theirs):
            for timeout_s in (0, 1.5, 300.0):
                mine.set_timeout(timeout_s)
                theirs.send(Ping(1))
                assert mine.receive().frame.message == Ping(1)


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "verdict"),
        [
            ("refused", "refused the job: no such model"),
            ("protocol", "could not read what this side sent: no such model"),
            ("failed", "failed: no such model"),
            ("unheard of", "failed: no such model"),
        ],
    )
    def test_typed_errors_are_raised(self, code: str, verdict: str) -> None:
        with connections() as (mine, theirs):
            theirs.send(Error(code, "no such model"))
            with pytest.raises(PeerError, match=verdict):
                mine.receive()

    def test_their_text_cannot_steer_a_terminal(self) -> None:
        with connections() as (mine, theirs):
            theirs.send(Error("failed", "\x1b[2J a\nb \u00e4" + "x" * 50_000))
            with pytest.raises(PeerError) as caught:
                mine.receive()
            assert "failed:  [2J a b \u00e4xxx" in str(caught.value)
            assert len(str(caught.value)) < 3000

    def test_a_refusal_reaches_a_peer_in_the_midst_of_sending(self) -> None:
        with sockets() as (near, far), Connection(near) as mine:
            theirs = Connection(far, limits=HANDSHAKE_LIMITS)

            def refuse() -> None:
                with theirs:
                    with pytest.raises(ProtocolError, match="limit") as caught:
                        theirs.receive()
                    theirs.refuse(Error("protocol", str(caught.value)))

            def send() -> None:
                with contextlib.suppress(ConnectionLost):
                    mine.send(MESSAGE, [bytes(32 << 20)])

            with ThreadPoolExecutor(2) as pool:
                sender, refuser = pool.submit(send), pool.submit(refuse)
                with pytest.raises(PeerError, match="could not read what this side sent: a frame announces a body"):
                    mine.receive()
                mine.close()
                sender.result(TIMEOUT_S)
                refuser.result(TIMEOUT_S)

    def test_refusing_a_peer_that_is_gone_is_no_error(self) -> None:
        with sockets() as (near, far), Connection(near) as mine:
            reset(far)
            mine.refuse(Error("failed", "too late"))
        mine.refuse(Error("failed", "much too late"))

    def test_expect_names_both_messages(self) -> None:
        with connections() as (mine, theirs):
            theirs.send(Ping(1))
            with pytest.raises(ProtocolError, match="sent 'ping' where 'attach' was due"):
                expect(mine.receive().frame, Attach)


class TestPorts:
    def test_connect_to_a_closed_port(self) -> None:
        with socket.socket() as nobody_listens:
            nobody_listens.bind((HOST, 0))
            port = nobody_listens.getsockname()[1]
            with pytest.raises(ConnectionLost, match=rf"{HOST}:{port} \(--hyperport\): .*refused; is the server"):
                connect(HOST, port, what="--hyperport")

    def test_connect_to_a_name_that_does_not_exist(self) -> None:
        with pytest.raises(ConnectionLost, match=r"no connection to no\.such\.invalid:1 \(--port\)"):
            connect("no.such.invalid", 1, what="--port", timeout_s=TIMEOUT_S)

    def test_listen_on_a_busy_port(self) -> None:
        with listen(HOST, 0, what="--port") as listener:
            port = listener.getsockname()[1]
            with pytest.raises(
                ConnectionLost, match=rf"{port} \(--port\): Address already in use; choose another with --port"
            ):
                listen(HOST, port, what="--port")

    def test_peer_is_named_by_address_and_port(self) -> None:
        with sockets() as (near, far), Connection(near) as mine:
            assert mine.peer == "{}:{}".format(*far.getsockname())
