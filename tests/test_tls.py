"""Frames under TLS: the same bytes come out, from two threads at once, and every way a connection can end."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConnectionLost, PeerError, PeerSilent
from common.wire.admission import ClientSecurity, ServerSecurity
from common.wire.framing import Buffer, pack
from common.wire.messages import Error, Finish, Gradients, Ping
from common.wire.structs import Payload
from common.wire.tcp import Connection, expect
from common.wire.tls import Records
from tests.secure import made, protected
from tests.sockets import TIMEOUT_S, sockets

pytestmark = pytest.mark.timeout(60)

MESSAGE = Gradients(0, True, 0.5, 1, 2, Payload("none", ()))


@pytest.fixture(scope="module")
def securities(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServerSecurity, ClientSecurity]:
    return made(tmp_path_factory.mktemp("security"))


@pytest.fixture
def ends(securities: tuple[ServerSecurity, ClientSecurity]) -> Iterator[tuple[Connection, Connection]]:
    with protected(securities) as ends:
        yield ends


class TestRecords:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.randoms(use_true_random=False))
    def test_what_is_missing_never_reaches_beyond_a_record(self, lengths: list[int], rng: object) -> None:
        stream = b"".join(b"\x17\x03\x03" + length.to_bytes(2, "big") + bytes(length) for length in lengths)
        ends = [5 + length for length in lengths]
        ends = [sum(ends[: i + 1]) for i in range(len(ends))]
        records, place = Records(), 0
        while place < len(stream):
            end = next(each for each in ends if each > place)
            assert 0 < records.missing <= end - place
            portion = rng.randint(1, 400)  # type: ignore[attr-defined]
            records.feed(memoryview(stream[place : place + portion]))
            place += min(portion, len(stream) - place)
            begun = max((each for each in ends if each <= place), default=0)
            assert records.held == place - begun


class TestTransfer:
    @pytest.mark.parametrize("nbytes", [0, 1, 16383, 16384, 16385, (1 << 18) - 1, (1 << 18) + 1, 3_000_001])
    def test_a_buffer_of_any_size(self, ends: tuple[Connection, Connection], nbytes: int) -> None:
        data = bytes(i % 251 for i in range(1000)) * (nbytes // 1000 + 1)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(ends[0].send, MESSAGE, [data[:nbytes], b"end"])
            frame = ends[1].receive().frame
        assert [bytes(each) for each in frame.buffers] == [data[:nbytes], b"end"]
        assert frame.nbytes == sent.result(TIMEOUT_S)

    def test_many_buffers_through_small_kernel_buffers(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        buffers: list[Buffer] = [bytes([i % 256]) * (i % 150) for i in range(3000)]
        with protected(securities, buffer_bytes=4096) as (mine, theirs), ThreadPoolExecutor(1) as pool:
            pool.submit(mine.send, MESSAGE, buffers)
            assert [bytes(each) for each in theirs.receive().frame.buffers] == buffers

    def test_only_empty_buffers(self, ends: tuple[Connection, Connection]) -> None:
        ends[0].send(MESSAGE, [b""] * 2000)
        assert len(ends[1].receive().frame.buffers) == 2000

    def test_large_frames_both_ways_at_once(self, ends: tuple[Connection, Connection]) -> None:
        up, down = b"u" * (8 << 20), b"d" * (8 << 20)
        mine, theirs = ends
        with ThreadPoolExecutor(2) as pool:
            sends = [pool.submit(mine.send, MESSAGE, [up]), pool.submit(theirs.send, MESSAGE, [down])]
            assert theirs.receive().frame.buffers[0] == up
            assert mine.receive().frame.buffers[0] == down
            assert len({each.result(TIMEOUT_S) for each in sends}) == 1

    @pytest.mark.slow
    def test_two_threads_on_each_side_for_a_while(self, ends: tuple[Connection, Connection]) -> None:
        """Frames of all sizes both ways, each side's reader and writer at once: order and content hold."""
        sizes = [(7919 * i) % 70_000 for i in range(400)]

        def send(end: Connection) -> None:
            for i, size in enumerate(sizes):
                end.send(MESSAGE, [bytes([i % 256]) * size])

        def receive(end: Connection) -> None:
            for i, size in enumerate(sizes):
                assert end.receive().frame.buffers[0] == bytes([i % 256]) * size

        with ThreadPoolExecutor(4) as pool:
            for each in [pool.submit(work, end) for work in (send, receive) for end in ends]:
                each.result(TIMEOUT_S)

    def test_a_thread_that_waits_for_the_peer_hinders_no_sender(self, ends: tuple[Connection, Connection]) -> None:
        mine, theirs = ends
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(mine.receive)
            for number in range(20):
                mine.send(Ping(number))
                assert expect(theirs.receive().frame, Ping).number == number
            theirs.send(Finish())
            assert waiting.result(TIMEOUT_S).frame.message == Finish()

    def test_bytes_that_drip(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        """Through a relay that carries one encrypted byte at a time."""
        server, client = securities
        with sockets() as (near, inner), sockets() as (outer, far), Connection(near) as mine, Connection(far) as theirs:

            def carry(source: socket.socket, sink: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    while data := source.recv(1 << 12):
                        for i in range(len(data)):
                            sink.sendall(data[i : i + 1])

            with ThreadPoolExecutor(3) as pool:
                outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pool.submit(carry, inner, outer)
                pool.submit(carry, outer, inner)
                admitted = pool.submit(server.admit, theirs)
                client.introduce(mine, "127.0.0.1")
                admitted.result(TIMEOUT_S)
                mine.send(MESSAGE, [b"x" * 100])
                assert theirs.receive().frame.buffers[0] == b"x" * 100
                for each in (mine, theirs):
                    each.shut()


class TestEnds:
    def test_closed_between_frames(self, ends: tuple[Connection, Connection]) -> None:
        ends[1].send(Finish())
        ends[1].close()
        assert ends[0].receive().frame.message == Finish()
        with pytest.raises(ConnectionLost, match=r"closed the connection$"):
            ends[0].receive()

    def test_closed_in_the_middle_of_a_frame(self, ends: tuple[Connection, Connection]) -> None:
        ends[1].send_parts([b"".join(map(bytes, pack(MESSAGE, [b"x" * 200])))[:150]])
        ends[1].close()
        with pytest.raises(ConnectionLost, match="closed the connection in the middle of a frame"):
            ends[0].receive()

    def test_a_changed_byte_ends_it(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        with protected(securities) as (mine, theirs):
            mine.send(Ping(1))
            theirs.receive()
            mine._socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody encrypted
            mine._socket.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionLost, match="TLS failed"):
                theirs.receive()

    def test_a_peer_that_asks_for_new_keys_without_end_is_cut_off(self, ends: tuple[Connection, Connection]) -> None:
        """Python cannot ask so; what OpenSSL would have to answer is put in its place."""
        mine, theirs = ends
        mine._stream._outgoing.write(bytes(1 << 17))  # type: ignore[attr-defined]
        theirs.send(Ping(1))
        with pytest.raises(ConnectionLost, match="asks for new keys without end"):
            mine.receive()

    def test_plain_bytes_end_it(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        """An answer that somebody between the two forged is not taken for the peer's."""
        with protected(securities) as (mine, theirs):
            forged = b"".join(map(bytes, pack(Error("denied", "forged"))))
            theirs._socket.sendall(forged)
            theirs._socket.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionLost) as caught:
                mine.receive()
            assert "forged" not in str(caught.value)

    @pytest.mark.parametrize("end", [Connection.shut, Connection.close])
    def test_ending_it_wakes_a_receiver_in_another_thread(
        self, ends: tuple[Connection, Connection], end: object
    ) -> None:
        mine, theirs = ends
        theirs.send(Ping(1))
        first = threading.Event()

        def receive() -> None:
            mine.receive()
            first.set()
            mine.receive()

        with ThreadPoolExecutor(1) as pool:
            receiver = pool.submit(receive)
            assert first.wait(TIMEOUT_S)
            end(mine)  # type: ignore[operator]
            assert isinstance(receiver.exception(TIMEOUT_S), ConnectionLost)

    def test_a_refusal_reaches_the_peer(self, ends: tuple[Connection, Connection]) -> None:
        with ThreadPoolExecutor(1) as pool:
            refusing = pool.submit(ends[1].refuse, Error("refused", "no such model"))
            with pytest.raises(PeerError, match="refused the job: no such model"):
                ends[0].receive()
            ends[0].close()
            refusing.result(TIMEOUT_S)


class TestSilence:
    def test_a_peer_that_sends_nothing(self, ends: tuple[Connection, Connection]) -> None:
        ends[0].set_timeout(0.05)
        with pytest.raises(PeerSilent, match=r"sent nothing for 0\.05 s"):
            ends[0].receive()

    def test_a_peer_that_stops_within_a_record(self, ends: tuple[Connection, Connection]) -> None:
        ends[0].set_timeout(0.05)
        ends[1]._socket.sendall(b"\x17\x03\x03\x01")
        with pytest.raises(PeerSilent, match=r"sent nothing for 0\.05 s"):
            ends[0].receive()

    def test_a_peer_that_takes_nothing(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        with protected(securities, buffer_bytes=4096) as (mine, _):
            mine.set_timeout(0.05)
            with pytest.raises(PeerSilent, match=r"took nothing for 0\.05 s"):
                mine.send(MESSAGE, [bytes(1 << 22)])
