"""The threads around a connection: order, bounds, and who hears of which error; all of them end."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import pytest

from common.errors import CodecError, ConnectionLost, PeerError, ProtocolError
from common.training.duplex import Duplex
from common.training.line import Line
from common.wire.framing import Buffer, pack
from common.wire.messages import Bye, Error, Finish, Finished, Ping
from common.wire.tcp import Connection, Received
from tests.sockets import TIMEOUT_S, sockets

pytestmark = pytest.mark.timeout(60)

Numbers: TypeAlias = "Duplex[int, int]"

MOMENT_S = 0.02  # to see that something does not happen; a correct duplex passes however long it is
END = -1  # travels as the last message of a direction
LOOPS = {"encoding", "sending", "receiving", "decoding"}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not LOOPS & {thread.name for thread in threading.enumerate()}


def test_a_machine_that_gives_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    real = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if self.name == "decoding":
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with sockets() as (near, _), Connection(near) as connection, pytest.raises(RuntimeError, match="new thread"):
        Duplex(Line(connection), encode, decode, 2).__enter__()


def encode(number: int) -> list[Buffer]:
    return pack(Bye() if number == END else Ping(number))


def decode(received: Received) -> int:
    message = received.frame.message
    return message.number if isinstance(message, Ping) else END


def failing(error: BaseException, at: int) -> Callable[[int], list[Buffer]]:
    """`encode` that fails at a number."""

    def encode_or_fail(number: int) -> list[Buffer]:
        if number == at:
            raise error
        return encode(number)

    return encode_or_fail


def failing_decode(error: BaseException, at: int) -> Callable[[Received], int]:
    def decode_or_fail(received: Received) -> int:
        if decode(received) == at:
            raise error
        return decode(received)

    return decode_or_fail


@contextlib.contextmanager
def beside(work: Callable[[], object]) -> Iterator[Callable[[], object]]:
    """Runs ``work`` in a thread during the block; what is yielded waits for its result."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield lambda: future.result(TIMEOUT_S)


def connection(sock: socket.socket, timeout_s: float = TIMEOUT_S) -> Connection:
    made = Connection(sock)
    made.set_timeout(timeout_s)
    return made


def numbers(sock: socket.socket, queue_limit: int = 2) -> Numbers:
    return Duplex(Line(connection(sock)), encode, decode, queue_limit)


def hear(theirs: Connection) -> str:
    """The error that the peer is told; it closes behind it."""
    with theirs, pytest.raises(PeerError) as caught:
        theirs.receive()
    return str(caught.value)


def ping_pong(mine: Numbers, count: int) -> None:
    with mine:
        for number in range(count):
            mine.submit(number)
            mine.collect()


def submit_all(mine: Numbers, items: Iterable[int]) -> None:
    with mine:
        for number in items:
            mine.submit(number)


def collect_one(mine: Numbers) -> int:
    with mine:
        return mine.collect()


class TestCarrying:
    @pytest.mark.parametrize("queue_limit", [1, 5])
    def test_order_is_kept_both_ways(self, queue_limit: int) -> None:
        def echo() -> None:
            with numbers(far, queue_limit) as theirs:
                while (number := theirs.collect()) != END:
                    theirs.submit(number * 2)
                theirs.submit(END)

        def submit_numbers() -> None:
            for number in [*range(300), END]:
                mine.submit(number)

        with sockets() as (near, far), beside(echo) as echoed, numbers(near, queue_limit) as mine:
            with beside(submit_numbers):
                assert [mine.collect() for _ in range(301)] == [*range(0, 600, 2), END]
            echoed()

    @pytest.mark.slow
    def test_all_may_be_submitted_before_anything_is_collected(self) -> None:
        """More than all queues and kernel buffers hold: the answers must find room, or both sides wait for ever."""
        count, padding = 200, bytes(1 << 14)

        def padded(number: int) -> list[Buffer]:
            return pack(Ping(number), [padding])

        def roomy(sock: socket.socket, inbox_limit: int) -> Numbers:
            return Duplex(Line(connection(sock)), padded, decode, 1, inbox_limit)

        def echo() -> None:
            with roomy(far, 0) as theirs:
                while (number := theirs.collect()) != END:
                    theirs.submit(number)

        with sockets(4096) as (near, far), beside(echo) as echoed, roomy(near, count) as mine:
            for number in range(count):
                mine.submit(number)
            assert [mine.collect() for _ in range(count)] == list(range(count))
            mine.submit(END)
            echoed()

    def test_a_session_ends_well_on_both_sides(self) -> None:
        def to_frame(item: Finish | Finished) -> list[Buffer]:
            return pack(item)

        def message(received: Received) -> object:
            return received.frame.message

        def serve() -> object:
            with Duplex(Line(connection(far)), to_frame, message, 2) as theirs:
                last = theirs.collect()
                theirs.submit(Finished({"a": "1"}))
            return last

        with sockets() as (near, far), beside(serve) as served:
            with Duplex(Line(connection(near)), to_frame, message, 2) as mine:
                mine.submit(Finish())
                assert mine.collect() == Finished({"a": "1"})
            assert served() == Finish()

    def test_what_was_submitted_is_sent_before_the_end(self) -> None:
        def collect_all() -> list[int]:
            with numbers(far) as theirs:
                return [theirs.collect() for _ in range(101)]

        with sockets() as (near, far), beside(collect_all) as collected:
            submit_all(numbers(near), [*range(100), END])
            assert collected() == [*range(100), END]

    def test_arrived_counts_what_collect_has_ready(self) -> None:
        decoded = threading.Semaphore(0)

        def decode_and_tell(received: Received) -> int:
            decoded.release()
            return decode(received)

        with sockets() as (near, far), Duplex(Line(connection(near)), encode, decode_and_tell, 5) as mine:
            assert mine.arrived() == 0
            theirs = connection(far)
            for number in range(3):
                theirs.send(Ping(number))
            for _ in range(3):
                assert decoded.acquire(timeout=TIMEOUT_S)
            theirs.send(Ping(3))
            assert decoded.acquire(timeout=TIMEOUT_S)  # so the three before have been put
            assert mine.arrived() >= 3
            assert [mine.collect() for _ in range(4)] == [0, 1, 2, 3]
            assert mine.arrived() == 0


class TestBounds:
    def test_a_slow_encoder_blocks_submit(self) -> None:
        entered, gate = threading.Event(), threading.Event()
        submitted: list[int] = []

        def encode_behind_gate(number: int) -> list[Buffer]:
            entered.set()
            assert gate.wait(TIMEOUT_S)
            return encode(number)

        def submit_numbers() -> None:
            for number in range(10):
                mine.submit(number)
                submitted.append(number)

        with sockets() as (near, far), Duplex(Line(connection(near)), encode_behind_gate, decode, 2) as mine:
            with beside(submit_numbers) as all_submitted:
                assert entered.wait(TIMEOUT_S)
                gate.wait(MOMENT_S)
                assert len(submitted) <= 3  # one with the encoder, two waiting
                gate.set()
                all_submitted()
            theirs = connection(far)
            assert [decode(theirs.receive()) for _ in range(10)] == list(range(10))

    def test_a_slow_consumer_blocks_the_producer_on_the_other_machine(self) -> None:
        everything = threading.Event()

        def encode_large(number: int) -> list[Buffer]:
            return pack(Ping(number), [bytes(1 << 16)])

        def submit_numbers() -> None:
            for number in range(60):
                mine.submit(number)
            everything.set()

        with (
            sockets(buffer_bytes=4096) as (near, far),
            Duplex(Line(connection(near)), encode_large, decode, 1) as mine,
            numbers(far, 1) as theirs,
            beside(submit_numbers),
        ):
            assert not everything.wait(MOMENT_S * 5)
            assert [theirs.collect() for _ in range(60)] == list(range(60))
            assert everything.wait(TIMEOUT_S)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "verdict"),
        [
            (CodecError("step 3 has NaN"), "failed: step 3 has NaN"),
            (ValueError("oops"), "failed: ValueError: oops"),
            (ProtocolError("activations of step 3"), "could not read what this side sent: activations of step 3"),
        ],
        ids=lambda each: type(each).__name__,
    )
    @pytest.mark.parametrize("stage", ["encode", "decode", "owner"])
    def test_the_owner_raises_it_and_the_peer_hears_it(self, stage: str, error: Exception, verdict: str) -> None:
        def echo() -> None:
            broken_encode = failing(error, 3) if stage == "encode" else encode
            broken_decode = failing_decode(error, 3) if stage == "decode" else decode
            with Duplex(Line(connection(far)), broken_encode, broken_decode, 2) as theirs:
                while True:
                    number = theirs.collect()
                    if stage == "owner" and number == 3:
                        raise error
                    theirs.submit(number)

        with sockets() as (near, far), beside(echo) as echoed:
            with pytest.raises(PeerError, match=verdict):
                ping_pong(numbers(near), 1000)
            with pytest.raises(type(error), match=str(error)):
                echoed()

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, ValueError])
    def test_an_interrupt_is_told_to_the_peer(self, interrupt: type[BaseException]) -> None:
        with sockets() as (near, far), beside(lambda: hear(connection(far))) as heard:
            with pytest.raises(interrupt), numbers(near):
                raise interrupt
            assert ("failed: it was interrupted by its user" in str(heard())) == (interrupt is KeyboardInterrupt)

    def test_an_error_in_the_last_item_is_raised_at_the_end_of_the_block(self) -> None:
        broken = failing(CodecError("cannot encode"), 0)
        with sockets() as (near, far), beside(lambda: hear(connection(far))) as heard:
            with pytest.raises(CodecError, match="cannot encode"):
                submit_all(Duplex(Line(connection(near)), broken, decode, 2), [0])
            assert "cannot encode" in str(heard())

    def test_a_peer_that_closes_under_a_sender(self) -> None:
        with sockets() as (near, far):
            far.close()
            with pytest.raises(ConnectionLost):
                submit_all(numbers(near), range(1_000_000))

    def test_a_peer_that_closes_under_a_receiver(self) -> None:
        with sockets() as (near, far):
            far.close()
            with pytest.raises(ConnectionLost, match="closed the connection"):
                collect_one(numbers(near))

    def test_a_silent_peer(self) -> None:
        with sockets() as (near, _), pytest.raises(ConnectionLost, match=r"sent nothing for 0\.05 s"):
            collect_one(Duplex(Line(connection(near, 0.05)), encode, decode, 2))

    def test_bytes_that_are_no_frame(self) -> None:
        with sockets() as (near, far):
            far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(10))
            with beside(lambda: hear(connection(far))) as heard:
                with pytest.raises(ProtocolError, match="does not speak"):
                    collect_one(numbers(near))
                assert "could not read what this side sent" in str(heard())

    def test_after_the_end_there_is_nothing_to_collect(self) -> None:
        def message(received: Received) -> object:
            return received.frame.message

        with sockets() as (near, far), connection(far) as theirs:
            theirs.send(Finished({}))
            with Duplex(Line(connection(near)), encode, message, 2) as mine:
                assert mine.collect() == Finished({})
                with pytest.raises(ConnectionLost, match="ended the session"):
                    mine.collect()

    def test_what_the_peer_says_wins_over_the_broken_pipe(self) -> None:
        """The peer's last words lie in the kernel's buffer while sending to it already fails."""

        def send_large(sock: socket.socket) -> None:
            submit_all(Duplex(Line(connection(sock)), encode_large, decode, 2), range(1000))

        def encode_large(number: int) -> list[Buffer]:
            return pack(Ping(number), [bytes(1 << 20)])

        for _ in range(10):
            with sockets() as (near, far), beside(partial(send_large, near)) as end:
                assert far.recv(1)
                far.sendall(pack(Error("failed", "out of memory"))[0])
                far.close()  # with unread bytes: a reset follows the error
                with pytest.raises(PeerError, match="out of memory"):
                    end()

    @pytest.mark.slow
    def test_no_farewell_in_the_midst_of_a_frame(self) -> None:
        """To a peer that stopped reading, an error would be some bytes of a tensor."""

        def encode_large(number: int) -> list[Buffer]:
            return pack(Ping(number), [bytes(1 << 22)])

        def fail_while_sending() -> None:
            with Duplex(Line(connection(near)), encode_large, decode, 2) as mine:
                mine.submit(1)
                assert far.recv(64, socket.MSG_WAITALL)[:4] == b"TNDM"  # sending has begun
                raise ValueError("mine")

        with sockets(buffer_bytes=4096) as (near, far):
            with pytest.raises(ValueError, match="mine"):
                fail_while_sending()
            rest = b""
            while part := far.recv(1 << 16):
                rest += part
            assert b"TNDM" not in rest
