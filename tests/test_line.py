"""A line brings each frame exactly once and in order, whatever becomes of its connections."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from itertools import count

import pytest

from common.errors import ConnectionLost, ProtocolError, SessionGone
from common.training.channel import Closed
from common.training.duplex import Duplex
from common.training.kept import Parts
from common.training.line import Line
from common.wire.framing import pack
from common.wire.messages import Bye, Error, Ping
from common.wire.tcp import Connection, Received
from tests.cutting import Cutter
from tests.sockets import TIMEOUT_S, sockets

pytestmark = pytest.mark.timeout(60)

MOMENT_S = 0.02  # to see that something does not happen; a correct line passes however long it is


def frame(number: int, nbytes: int = 0) -> Parts:
    return pack(Ping(number), content(number, nbytes))


def content(number: int, nbytes: int) -> tuple[bytes, ...]:
    return (random.Random(number).randbytes(nbytes),) if nbytes else ()


def number(received: Received) -> int:
    message = received.frame.message
    assert isinstance(message, Ping)
    return message.number


@contextmanager
def ends() -> Iterator[tuple[Connection, Connection]]:
    with sockets() as (near, far), Connection(near) as mine, Connection(far) as theirs:
        for each in (mine, theirs):
            each.set_timeout(TIMEOUT_S)
        yield mine, theirs


@contextmanager
def beside(*works: Callable[[], object]) -> Iterator[list[Future[object]]]:
    """Runs each in a thread of its own, and waits for all."""
    with ThreadPoolExecutor(len(works)) as pool:
        yield [pool.submit(work) for work in works]


def wait_for(event: Callable[[], bool]) -> None:
    """Until something is so, about which nobody tells."""
    paused = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.002)):
        if event():
            return
        paused.wait(0.002)
    pytest.fail("it never came")


# Over many connections


class Rig:
    """An edge that asks with ``window`` frames under way, a cloud that answers each, and connections that break."""

    def __init__(self, seed: int, frames: int, most_bytes: int, window: int = 6) -> None:
        self._rng = random.Random(seed)
        self.cutter = Cutter(random.Random(seed + 1), most_bytes)
        self._count, self._room = frames, threading.Semaphore(window)
        self._sizes = [self._rng.choice([0, 1, 100, 5000, 70_000]) for _ in range(frames)]
        near, far = self.cutter.pair()
        self.edge = Line(near, restore=self._connect, limit=2)
        self.cloud = Line(far, restore=patient, lag=window, limit=2)
        self.asked: list[int] = []
        self.answered: list[int] = []

    def _connect(self, line: Line, _: ConnectionLost) -> None:
        while not line.ended:
            near, far = self.cutter.pair()
            # What `Attach` and `Attached` say.
            generation, received = line.detach()
            their_generation, theirs = self.cloud.detach()
            if self._rng.random() < 0.1:  # it breaks just now
                near.close()
                far.close()
            if not self.cloud.adopt(far, their_generation, received):
                far.close()
            if line.adopt(near, generation, theirs):
                return
            near.close()

    def ask(self) -> None:
        for i in range(self._count):
            self._room.acquire()
            self.edge.put(frame(i, self._sizes[i]))

    def answer(self) -> None:
        with suppress(Closed):
            for i in count():
                received = self.cloud.receive()
                self.asked.append(number(received))
                assert received.frame.buffers == content(i, self._sizes[i])
                self.cloud.put(frame(i, self._sizes[-i]))

    def collect(self) -> None:
        for i in range(self._count):
            received = self.edge.receive()
            self.answered.append(number(received))
            assert received.frame.buffers == content(i, self._sizes[-i])
            self._room.release()
        for line in (self.edge, self.cloud):
            line.complete()

    def run(self, *disturbances: Callable[[], object]) -> None:
        with beside(self.ask, self.collect, self.edge.pump, self.cloud.pump, self.answer, *disturbances) as all_of:
            done, _ = wait(all_of[:4], TIMEOUT_S, FIRST_EXCEPTION)
            for line in (self.edge, self.cloud):
                line.end()
            self._room.release(self._count)
        for each in all_of:
            each.result()
        assert len(done) == 4
        self.cutter.join()

    def check(self) -> None:
        assert self.asked == self.answered == list(range(self._count))
        assert self.edge.all_sent
        assert self.cloud.all_sent


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_each_frame_comes_once_over_connections_that_break_within_frames(seed: int) -> None:
    rig = Rig(seed, frames=150, most_bytes=150_000)
    rig.run()
    rig.check()
    assert rig.cutter.made > 30
    assert rig.edge.returns >= rig.edge.breaks > 20
    assert not [thread for thread in threading.enumerate() if thread.name == "cutter"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_interruptions_from_either_side_at_any_time(seed: int) -> None:
    rig, rng = Rig(seed, frames=150, most_bytes=0), random.Random(seed)

    def interrupt() -> None:
        while len(rig.answered) < 150:
            rng.choice([rig.edge, rig.cloud]).interrupt()
            rig.edge.pause(rng.uniform(0, 0.01))

    rig.run(interrupt)
    rig.check()
    assert rig.edge.breaks > 10


def test_what_was_sent_is_kept_until_the_peer_has_it() -> None:
    with ends() as (mine, theirs), closing_line(Line(mine, restore=never)) as line:
        for i in range(3):
            line.put(frame(i))
        line.complete()
        line.pump()
        assert [number(theirs.receive()) for _ in range(3)] == [0, 1, 2]
        assert line.all_sent
        assert len(line.kept_from(0)) == 3
        theirs.send(Ping(0))
        line.receive()
        assert len(line.kept_from(1)) == 2
        with pytest.raises(ProtocolError, match="frames from 0 on are asked for; 1 to 3 are kept"):
            line.kept_from(0)
        with pytest.raises(ProtocolError, match="from 4 on"):
            line.kept_from(4)
        assert line.kept_from(3) == []


def test_a_side_that_only_answers_keeps_what_may_be_under_way() -> None:
    with (
        ends() as (mine, theirs),
        closing_line(Line(mine, restore=never, lag=2)) as line,
        beside(line.pump),
    ):
        for i in range(4):
            theirs.send(Ping(i))
            line.receive()
            line.put(frame(i))
            assert number(theirs.receive()) == i
            wait_for(lambda: line.all_sent)
        line.complete()
        assert len(line.kept_from(1)) == 3
        with pytest.raises(ProtocolError):
            line.kept_from(0)


def test_what_was_sent_last_is_kept_for_a_checkpoint_even_if_the_peer_has_it() -> None:
    """A checkpoint that is being taken needs the answers that the edge had not applied when it asked for it."""
    with ends() as (mine, theirs), ends() as (again, _), closing_line(Line(mine, restore=patient, lag=3)) as line:
        for i in range(4):
            line.put(frame(i))
        with beside(line.pump):
            assert [number(theirs.receive()) for i in range(4)] == list(range(4))
            assert adopted(line, again, 4)
            assert len(line.kept_from(1)) == 3
            line.complete()


def test_without_a_way_back_nothing_is_kept() -> None:
    with ends() as (mine, _), closing_line(Line(mine)) as line:
        line.put(frame(0))
        line.complete()
        line.pump()
        assert line.kept_from(1) == []
        with pytest.raises(ProtocolError):
            line.kept_from(0)


# Another connection


def never(_: Line, error: ConnectionLost) -> None:
    raise error


def patient(line: Line, _: ConnectionLost) -> None:
    assert line.await_adoption(TIMEOUT_S)


@contextmanager
def closing_line(line: Line) -> Iterator[Line]:
    try:
        yield line
    finally:
        line.end()


def adopted(line: Line, connection: Connection, received: int = 0) -> bool:
    generation, _ = line.detach()
    return line.adopt(connection, generation, received)


@pytest.mark.parametrize(
    ("claimed", "put", "sent"),
    [(1, 0, 0), (3, 2, 2), (-1, 0, 0), (1, 2, 0), (2, 2, 1)],
    ids=["nothing is there", "more than there are", "below none", "none was sent", "the last was not sent"],
)
def test_a_peer_that_claims_what_it_cannot_have(claimed: int, put: int, sent: int) -> None:
    line = Line(restore=never, limit=9)
    with ends() as (mine, theirs), ends() as (mine_again, _), closing_line(line):
        for i in range(sent):
            line.put(frame(i))
        assert adopted(line, mine)
        if sent:
            line.complete()
            line.pump()
            assert [number(theirs.receive()) for _ in range(sent)] == list(range(sent))
        for i in range(sent, put):
            line.put(frame(i))
        with pytest.raises(ProtocolError, match=f"it has received {claimed} frames; it can be 0 to {sent}"):
            adopted(line, mine_again, claimed)
        assert not line.ended


def test_a_peer_that_lacks_what_it_had() -> None:
    with ends() as (mine, theirs), ends() as (again, _), closing_line(Line(mine, restore=never)) as line:
        line.put(frame(0))
        line.complete()
        line.pump()
        theirs.send(Ping(0))  # the answer: it had frame 0
        line.receive()
        with pytest.raises(ProtocolError, match="received 0 frames; it can be 1 to 1"):
            adopted(line, again, 0)


def test_a_newer_connection_replaces_an_older_one() -> None:
    line = Line(restore=patient)
    with ends() as (first, old_peer), ends() as (second, new_peer), closing_line(line):
        assert adopted(line, first)
        with beside(line.receive) as (receiving,):
            assert adopted(line, second)
            with pytest.raises(ConnectionLost):
                old_peer.receive()
            new_peer.send(Ping(7))
            assert number(receiving.result(TIMEOUT_S)) == 7  # type: ignore[arg-type]
        assert line.connection is second
        assert line.breaks == 0


def test_what_came_over_the_older_one_does_not_count() -> None:
    """The peer was told how many came; if one more of the old connection counted, it would come twice."""
    line = Line(restore=patient)
    with ends() as (first, old_peer), ends() as (second, new_peer), closing_line(line):
        assert adopted(line, first)
        old_peer.send(Ping(0))
        assert number(line.receive()) == 0
        old_peer.send(Ping(1))
        generation, received = line.detach()
        assert received == 1
        with beside(line.receive) as (receiving,):
            assert line.adopt(second, generation, 0)
            new_peer.send(Ping(1))
            assert number(receiving.result(TIMEOUT_S)) == 1  # type: ignore[arg-type]
        assert line.received == 2


def test_of_two_that_come_the_later_one_stays() -> None:
    line = Line(restore=never)
    with ends() as (first, _), ends() as (second, _), closing_line(line):
        (early, _), (late, _) = line.detach(), line.detach()
        assert line.adopt(second, late, 0)
        assert not line.adopt(first, early, 0)
        assert line.connection is second
        first.send(Ping(0))  # it is its owner's still


def test_an_ended_line_takes_none() -> None:
    line = Line(restore=never)
    generation, _ = line.detach()
    line.end()
    with ends() as (mine, _):
        assert not line.adopt(mine, generation, 0)


def test_who_leaves_for_a_connection_that_never_comes_is_waited_for() -> None:
    """An edge that dies between its words and its connection must not leave a session that waits for ever."""

    def wait(line: Line, error: ConnectionLost) -> None:
        if not line.await_adoption(MOMENT_S):
            raise ConnectionLost(f"{error}; it did not come back")

    line = Line(restore=wait)
    with ends() as (mine, _), closing_line(line):
        assert adopted(line, mine)
        with beside(line.receive) as (receiving,):
            line.detach()
            with pytest.raises(ConnectionLost, match="did not come back"):
                receiving.result(TIMEOUT_S)


def test_a_claim_that_is_refused_is_waited_behind() -> None:
    def wait(line: Line, error: ConnectionLost) -> None:
        if not line.await_adoption(MOMENT_S):
            raise ConnectionLost(f"{error}; it did not come back")

    line = Line(restore=wait)
    with ends() as (mine, _), ends() as (again, _), closing_line(line):
        assert adopted(line, mine)
        with beside(line.receive) as (receiving,):
            with pytest.raises(ProtocolError):
                adopted(line, again, 5)
            with pytest.raises(ConnectionLost, match="did not come back"):
                receiving.result(TIMEOUT_S)


def test_one_of_its_threads_brings_the_connection_back() -> None:
    calls: list[str] = []
    with ends() as (mine, theirs), ends() as (again, peer):

        def restore(line: Line, _: ConnectionLost) -> None:
            calls.append(threading.current_thread().name)
            generation, received = line.detach()
            assert received == 0
            assert line.adopt(again, generation, 0)

        with closing_line(Line(mine, restore=restore)) as line, beside(line.pump, line.receive) as (_, receiving):
            theirs.close()
            line.put(frame(5))
            assert number(peer.receive()) == 5
            peer.send(Ping(6))
            assert number(receiving.result(TIMEOUT_S)) == 6  # type: ignore[arg-type]
            line.complete()
        assert len(calls) == line.breaks == line.returns == 1


def test_what_cannot_be_brought_back_ends_the_thread_that_tried() -> None:
    def gone(_line: Line, _error: ConnectionLost) -> None:
        raise SessionGone("it is not here")

    with ends() as (mine, theirs), closing_line(Line(mine, restore=gone)) as line, beside(line.receive) as (receiving,):
        theirs.close()
        with pytest.raises(SessionGone):
            receiving.result(TIMEOUT_S)


# Waiting, and the end


def test_waiting_for_a_connection_ends_in_time() -> None:
    line = Line(restore=never)
    assert not line.await_adoption(MOMENT_S)
    assert not line.pause(MOMENT_S)
    with ends() as (mine, _):
        assert adopted(line, mine)
        assert line.await_adoption(0)
        line.end()
    assert line.pause(TIMEOUT_S)


def test_the_end_wakes_everyone() -> None:
    line = Line(restore=never, limit=1)
    with ends() as (mine, _):
        assert adopted(line, mine)
        works = [line.receive, line.pump, lambda: line.await_release(mine), lambda: line.pause(TIMEOUT_S)]
        with beside(*works) as (receiving, pumping, *waiting):
            line.end()
            for each in (receiving, pumping):
                with pytest.raises(Closed):
                    each.result(TIMEOUT_S)
            for other in waiting:
                other.result(TIMEOUT_S)
    with pytest.raises(Closed):
        line.put(frame(0))


def test_the_end_wakes_who_waits_for_a_connection() -> None:
    line = Line(restore=patient, limit=1)
    line.put(frame(0))
    works = [line.receive, line.pump, lambda: line.put(frame(1)), lambda: line.await_adoption(TIMEOUT_S)]
    with beside(*works) as (*closed, adoption):
        line.end()
        for each in closed:
            with pytest.raises(Closed):
                each.result(TIMEOUT_S)
        assert adoption.result(TIMEOUT_S)
    assert line.connection is None


def test_last_words_are_not_within_a_frame() -> None:
    with ends() as (mine, theirs):
        line = Line(mine, restore=never, limit=2)
        line.put(frame(0, 30_000_000))  # more than the kernel holds
        with beside(line.pump) as (pumping,):
            wait_for(lambda: mine.progress > 0)
            with beside(lambda: line.end(Error("failed", "enough"), patience_s=MOMENT_S)):
                wait_for(lambda: line.connection is None)  # it has waited, and left within the frame
                with pytest.raises(ConnectionLost, match="closed the connection in the middle of a frame"):
                    theirs.receive()
                assert isinstance(pumping.exception(TIMEOUT_S), Closed)


def test_last_words_come_behind_the_last_frame() -> None:
    with ends() as (mine, theirs):
        line = Line(mine, restore=never)
        line.put(frame(0))
        line.complete()
        line.pump()
        with beside(lambda: line.end(Bye(), patience_s=TIMEOUT_S)):
            assert number(theirs.receive()) == 0
            assert isinstance(theirs.receive().frame.message, Bye)
            theirs.close()


def test_a_line_goes_on_where_another_one_was() -> None:
    kept = [frame(3), frame(4)]
    with (
        ends() as (mine, theirs),
        closing_line(Line(restore=never, sent=5, received=9, kept=kept)) as line,
        closing(theirs),
    ):
        assert (line.sent, line.received, line.all_sent) == (5, 9, True)
        with pytest.raises(ProtocolError, match="3 to 5"):
            adopted(line, mine, 2)
        assert adopted(line, mine, 4)
        line.put(frame(5))
        line.complete()
        line.pump()
        assert [number(theirs.receive()) for _ in range(2)] == [4, 5]


@pytest.mark.parametrize("call", ["submit", "collect"])
def test_the_end_wakes_the_owner_of_its_threads(call: str) -> None:
    with ends() as (mine, _):
        line = Line(mine, restore=never, limit=1)
        carried: Duplex[int, int] = Duplex(line, lambda i: frame(i, 30_000_000), number, 1)

        def own() -> None:
            with carried:
                while True:
                    if call == "submit":
                        carried.submit(0)  # more than the kernel, the line and the queue hold
                    else:
                        carried.collect()

        with beside(own) as (owning,):
            wait_for(lambda: mine.progress > 0 or call == "collect")
            line.end()
            with pytest.raises(ConnectionLost, match="has ended the session"):
                owning.result(TIMEOUT_S)
