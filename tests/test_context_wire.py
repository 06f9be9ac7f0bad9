"""What is measured of a link: bytes and seconds of frames as they come, pings with bodies, and probes alone."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from common.errors import ConnectionLost, ProtocolError
from common.link.contexts import LinkContext, parse_context
from common.link.emulate import Link, Route
from common.link.trace import Trace
from common.planning.context import Rate
from common.planning.probes import SURVEY_S
from common.planning.swings import CALM
from common.training.heartbeat import Heartbeat
from common.training.line import Line
from common.training.monitor import LinkMonitor
from common.training.probing import Pinger, answer, measure_link
from common.training.remote import Cloud, OpenSession
from common.wire.counts import ask_stamps, lateness_s
from common.wire.framing import pack
from common.wire.messages import Finish, Ping, Pong
from common.wire.tcp import CONTROL_LIMITS, Connection, expect
from tests.secure import made
from tests.sockets import HOST, TIMEOUT_S, sockets
from tests.test_line import wait_for
from tests.test_tcp import connections

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.slow,
    pytest.mark.skipif(
        os.getloadavg()[0] > 0.6 * (os.cpu_count() or 1), reason="the machine is busy: a link's rate cannot be timed"
    ),
]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts")

MBPS = 1e6
PINGS_ONLY = (0, 0)


@contextmanager
def over(
    link: LinkContext, *, security: Path | None = None, up: Trace | None = None, down: Trace | None = None
) -> Iterator[tuple[Connection, Connection]]:
    """The edge's and the cloud's end of a connection over an emulated link."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        relay = stack.enter_context(Link(link, [Route((HOST, 0), listener.getsockname())], up=up, down=down))
        edge = stack.enter_context(Connection(socket.create_connection(relay.addresses[0], timeout=TIMEOUT_S)))
        cloud = stack.enter_context(Connection(listener.accept()[0]))
        if security is not None:
            server, client = made(security)
            with ThreadPoolExecutor(1) as pool:
                admitted = pool.submit(server.admit, cloud)
                client.introduce(edge, HOST)
                admitted.result(TIMEOUT_S)
        for each in (edge, cloud):
            each.set_timeout(TIMEOUT_S)
        yield edge, cloud


@contextmanager
def answering(connection: Connection) -> Iterator[None]:
    """Pings are answered in the background, until the peer closes."""
    connection.set_limits(CONTROL_LIMITS)

    def serve() -> None:
        try:
            while True:
                answer(connection, connection.receive())
        except ConnectionLost:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        connection.shut()
        thread.join()


def frame(nbytes: int) -> bytes:
    return b"".join(map(bytes, pack(Finish(), [bytes(nbytes)])))


@on_linux
class TestReceived:
    def test_bytes_that_lay_there_when_the_time_began_are_not_timed(self) -> None:
        data = frame(50_000)
        with sockets() as (near, far), Connection(near) as mine, ThreadPoolExecutor(1) as pool:
            far.sendall(data[:20_000])
            wait_for(lambda: mine.moved[1] == 20_000)
            received = pool.submit(mine.receive)
            wait_for(lambda: mine._came > 32)  # behind the prefix, and so behind the beginning of the time
            far.sendall(data[20_000:])
            assert received.result(TIMEOUT_S).timed_bytes == len(data) - 20_000

    def test_a_frame_that_was_there_says_nothing(self) -> None:
        data = frame(20_000)
        with sockets() as (near, far), Connection(near) as mine:
            far.sendall(data)
            wait_for(lambda: mine.moved[1] == len(data))
            received = mine.receive()
            assert received.timed_bytes == 0
            assert not Rate().add(received.timed_bytes, received.seconds, 0.0)

    def test_nor_one_for_which_the_sender_may_have_had_to_wait(self) -> None:
        data = frame(100_000)
        with sockets() as (near, far), Connection(near) as mine, ThreadPoolExecutor(1) as pool:
            far.sendall(data[:40_000])
            wait_for(lambda: mine.moved[1] == 40_000)
            received = pool.submit(mine.receive)
            wait_for(lambda: mine._came > 32)
            far.sendall(data[40_000:])
            assert received.result(TIMEOUT_S).timed_bytes == 0

    def test_the_next_frame_is_timed_again(self) -> None:
        data = frame(50_000)
        with sockets() as (near, far), Connection(near) as mine, ThreadPoolExecutor(1) as pool:
            far.sendall(data)
            wait_for(lambda: mine.moved[1] == len(data))
            mine.receive()
            received = pool.submit(mine.receive)
            far.sendall(data[:100])
            wait_for(lambda: mine.moved[1] == len(data) + 100)
            far.sendall(data[100:])
            assert 0 <= received.result(TIMEOUT_S).timed_bytes <= len(data)

    def test_a_thread_that_is_late_knows_by_how_much(self) -> None:
        with sockets() as (near, far):
            assert ask_stamps(near)
            far.sendall(b"abc")
            begun_s = time.perf_counter()
            threading.Event().wait(0.03)
            _, told, *_ = near.recvmsg_into([bytearray(3)], 64)
            late_s = lateness_s(near, told)
            assert 0.025 < late_s < time.perf_counter() - begun_s + 0.01
            far.sendall(b"abcd")
            _, told, *_ = near.recvmsg_into([bytearray(3)], 64)
            assert lateness_s(near, told) == 0.0  # another byte waits: the time goes on
            assert lateness_s(near, []) == 0.0

    def test_a_closed_socket_has_counted_nothing(self) -> None:
        with sockets() as (near, _), Connection(near) as mine:
            mine.close()
            assert mine.moved == (0, 0)
            assert not ask_stamps(near)

    @pytest.mark.slow
    @pytest.mark.parametrize("protection", ["plain", "tls"])
    @pytest.mark.parametrize("together", [1, 5], ids=["K = 0", "K = 4"])
    @pytest.mark.parametrize("nbytes", [50_000, 200_000])
    def test_frames_over_a_link_tell_its_rate(
        self, tmp_path: Path, protection: str, together: int, nbytes: int
    ) -> None:
        """One after the other, and so many at a time that each begins where another ends."""
        rate, security = Rate(), tmp_path / "security" if protection == "tls" else None
        with over(LinkContext("", 20, 20, 20), security=security) as (edge, cloud), ThreadPoolExecutor(1) as pool:
            for _ in range(6):
                sent = [pool.submit(cloud.send, Finish(), [bytes(nbytes)]) for _ in range(together)]
                for each in sent:
                    received = edge.receive()
                    rate.add(received.timed_bytes, received.seconds, time.perf_counter())
                    each.result(TIMEOUT_S)
        assert rate.bps == pytest.approx(20 * MBPS, rel=0.1)


class TestPings:
    def test_a_ping_tells_the_round_trip(self) -> None:
        monitor = LinkMonitor()
        with connections() as (mine, theirs), answering(theirs):
            mine.set_limits(CONTROL_LIMITS)
            Pinger(mine, monitor).beat((1 << 30, 1 << 30))  # of training: no time for probes
            assert monitor.context().up_bps is None
            assert 0 < (monitor.context().rtt_s or 0) < TIMEOUT_S

    def test_bodies_go_both_ways(self) -> None:
        with connections() as (mine, theirs), answering(theirs):
            mine.set_limits(CONTROL_LIMITS)
            for up_bytes, down_bytes in ((0, 0), (1000, 0), (0, 1000), (1 << 20, 1 << 20)):
                mine.send(Ping(7, down_bytes), [bytes(up_bytes)] if up_bytes else [])
                received = mine.receive()
                pong = expect(received.frame, Pong)
                assert pong.number == 7
                assert pong.seconds >= 0
                assert 0 <= pong.timed_bytes <= up_bytes + 256
                assert sum(map(len, received.frame.buffers)) == down_bytes

    @pytest.mark.parametrize("wanted", [-1, CONTROL_LIMITS.body_bytes + 1, 2**62])
    def test_more_than_the_limit_is_refused(self, wanted: int) -> None:
        with connections() as (mine, theirs):
            mine.send(Ping(1, wanted))
            with pytest.raises(ProtocolError, match=f"a ping wants {wanted} bytes; the limit here is 1048576"):
                answer(theirs, theirs.receive())

    def test_so_is_a_larger_body_before_it_comes(self) -> None:
        with connections() as (mine, theirs):
            theirs.set_limits(CONTROL_LIMITS)
            mine.send_parts(pack(Ping(1), [bytes(CONTROL_LIMITS.body_bytes + 1)])[:1])
            with pytest.raises(ProtocolError, match=r"body of 1048640 bytes; the limit here is 1048576"):
                theirs.receive()

    def test_an_answer_to_another_ping_is_none(self) -> None:
        with connections() as (mine, theirs):
            theirs.send(Pong(9, 0.0))
            with pytest.raises(ProtocolError, match="answered ping 9, which was not asked"):
                Pinger(mine, LinkMonitor()).beat(PINGS_ONLY)

    def test_an_answer_may_come_in_a_later_beat(self) -> None:
        with connections() as (mine, theirs):
            mine.set_timeout(0.05)
            pinger = Pinger(mine, LinkMonitor())
            with pytest.raises(ConnectionLost, match="sent nothing"):
                pinger.beat(PINGS_ONLY)
            assert expect(theirs.receive().frame, Ping).number == 1
            theirs.send(Pong(1, 0.0))
            mine.set_timeout(TIMEOUT_S)
            with answering(theirs):
                pinger.beat((1 << 30, 1 << 30))  # asks nothing before the first answer has come

    def test_half_a_ping_ends_the_connection(self) -> None:
        """A peer that takes nothing: what would follow would be read as the rest of it."""
        monitor = LinkMonitor()
        with connections(4096) as (mine, theirs):
            mine.set_timeout(0.2)
            theirs.send(Pong(1, 0.0))
            pinger = Pinger(mine, monitor)
            for _ in range(40):  # what the kernel takes
                try:
                    mine.send(Ping(0), [bytes(4096)])
                except ConnectionLost:
                    break
            with pytest.raises(ConnectionLost, match="took nothing") as lost:
                pinger.beat(PINGS_ONLY)
            assert type(lost.value) is ConnectionLost

    def test_the_monitor_is_one_for_all_threads(self) -> None:
        monitor = LinkMonitor()

        def tell() -> None:
            for _ in range(300):
                monitor.transferred("up", 250_000, 0.1)
                monitor.transferred("down", 500_000, 0.1)
                monitor.answered(0.04)
                monitor.probes((0, 0))
                assert monitor.context().rtt_s == 0.04

        with ThreadPoolExecutor(4) as pool:
            for each in [pool.submit(tell) for _ in range(4)]:
                each.result(TIMEOUT_S)
        context = monitor.context()
        assert context.up_bps == pytest.approx(20 * MBPS)
        assert context.down_bps == monitor.rate_bps("down") == pytest.approx(40 * MBPS)
        assert monitor.spread().up == pytest.approx(0.0, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("link", ["20/20/40", "iot", "4g", "wifi", "5g"])
def test_some_probes_tell_a_link_that_carries_nothing_else(link: str) -> None:
    known = parse_context(link)
    with over(known) as (edge, cloud), answering(cloud):
        monitor, begun_s = LinkMonitor(), time.monotonic()
        context = measure_link(edge, monitor)
        assert SURVEY_S <= time.monotonic() - begun_s < SURVEY_S + 1.5
        spread = monitor.spread()
        assert max(spread.up or 1.0, spread.down or 1.0) < 2 * CALM  # threads on a machine that others use
    assert context.up_bps == pytest.approx(known.up_bps, rel=0.15)
    assert context.down_bps == pytest.approx(known.down_bps, rel=0.15)
    assert context.rtt_s is not None
    assert known.rtt_ms / 1e3 <= context.rtt_s < known.rtt_ms / 1e3 + 0.03


@pytest.mark.slow
def test_an_idle_link_is_followed_by_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while all is on the edge; in a fifth of the real time."""
    for name in ("planning.context.CONSTANT_S", "planning.context.CHANGE_S", "planning.probes.EVERY_S"):
        seconds = {"CONSTANT_S": 2.0, "CHANGE_S": 0.6, "EVERY_S": 0.8}[name.rpartition(".")[2]]
        monkeypatch.setattr(f"common.{name}", seconds)
    step = Trace([0, 3, 60], [0, 3 * 2.5e6, 3 * 2.5e6 + 57 * 0.625e6], loop=False)
    begun_s = time.monotonic()
    with (
        over(LinkContext("", 20, 20, 20), up=step, down=step) as (control, cloud),
        answering(cloud),
        connections() as (line, _),
    ):
        control.set_limits(CONTROL_LIMITS)
        session = OpenSession("", b"", control, line, 0, 0.02, 0.0, (), 0, "none")
        monitor, nowhere = LinkMonitor(), Cloud(HOST, 1, 1)

        def near(mbps: float) -> bool:
            context = monitor.context()
            rates = (context.up_bps, context.down_bps)
            return all(each is not None and abs(each / mbps / MBPS - 1) < 0.1 for each in rates)

        with Heartbeat(nowhere, session, Line(line), monitor, beat_s=0.4, dead_s=TIMEOUT_S):
            wait_for(lambda: near(20))
            assert time.monotonic() - begun_s < 3
            wait_for(lambda: near(5))
            assert 3 < time.monotonic() - begun_s < 5 + 1  # a fifth of 10 s, and some time to probe
            assert monitor.context().rtt_s == pytest.approx(0.02, abs=0.02)
