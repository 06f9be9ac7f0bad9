"""One session at the cloud: it outlives its connections, and ends by itself when its edge is gone for too long."""

import hmac
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file

from common.errors import ConnectionLost, PeerError, SessionGone, TandemError
from common.naming import printable
from common.records import write_json
from common.training.duplex import Duplex
from common.training.ended import Latecomer
from common.training.exchange import Answer, Upload
from common.training.kept import Parts
from common.training.line import Line
from common.training.score import Score
from common.training.station import Arrived, Averaging, Leaving, Station
from common.training.turns import Turns
from common.wire.framing import Limits
from common.wire.messages import Attach, Attached, Bye, Finish, Finished
from common.wire.tcp import IDLE_TIMEOUT_S, Connection

log = logging.getLogger(__name__)

AWAY_S = 600.0
"""How long a session waits for its edge to come back, unless the server's user says otherwise."""
LINGER_S = 30.0
"""The same when all is answered: only the last answer may have to be sent again."""


@dataclass(frozen=True)
class Place:
    """What a server gives each of its sessions."""

    turns: Turns
    queue_limit: int
    away_s: float
    ended: Callable[["Hosted"], None]
    """Told when a session has ended, however it did."""


@dataclass
class Progress:
    """What a session has done."""

    answered: int = 0
    trained: Score = field(default_factory=Score)


class Hosted:
    """A session, with a thread of its own from its first connection on.

    Args:
        name: by which it is attached to.
        key: which an edge shows when it attaches.
        station: the cloud's half of it.
        folder: where its checkpoints and its trained tail go.
        limits: of frames that come up.
        window: the most frames that the edge sends without having received their answers.
        place: what the server gives it.
        received: frames that came before, and were answered.
        kept: the last of the answers, which the edge may not have.
    """

    def __init__(
        self,
        name: str,
        key: bytes,
        station: Station,
        folder: Path,
        *,
        limits: Limits,
        window: int,
        place: Place,
        received: int = 0,
        kept: Sequence[Parts] = (),
    ) -> None:
        self.name, self.key, self.station, self.folder = name, key, station, folder
        self.limits = limits
        self.memory_bytes = 0
        """What it may take, as far as it is known beforehand."""
        self.progress = Progress()
        self.leave: Callable[[], None] = _nothing
        """Called at its end; may be called twice."""
        self._place = place
        self._away_s = place.away_s
        self._all_answered = False
        self.line = Line(
            restore=self._await_edge,
            lag=window,
            limit=place.queue_limit,
            sent=received,
            received=received,
            kept=kept,
        )
        station.answers = self.line.kept_from
        self._thread = threading.Thread(target=self._guard, name=f"session {name}", daemon=True)
        self._control: Connection | None = None
        self._lock = threading.Lock()
        self.ended = False

    @property
    def begun(self) -> bool:
        """Whether an edge has ever attached to it."""
        return self._thread.ident is not None

    def check_key(self, key: bytes) -> None:
        """Raises SessionGone where a key is another session's: as if there were none of this name."""
        if not hmac.compare_digest(key, self.key):
            raise SessionGone(f"no session {self.name!r} of yours is here")

    def attach(self, connection: Connection, message: Attach) -> None:
        """Train over a connection, until it breaks or another one takes its place.

        Raises:
            SessionGone: it has ended.
            ConnectionLost: it broke at once, or another one was faster.
            ProtocolError: the edge has received what was never sent.
        """
        self._begin()
        generation, received = self.line.detach()
        connection.send(Attached(received))
        connection.set_timeout(IDLE_TIMEOUT_S)
        connection.set_limits(self.limits)
        if not self.line.adopt(connection, generation, message.received):
            raise ConnectionLost(f"session {self.name} has ended, or has a newer connection than {connection.peer}")
        self.line.await_release(connection)

    def give_up(self) -> bool:
        """End it where no edge has ever come to train; whether that is so."""
        with self._lock:
            if not self.begun:
                self.ended = True
            return not self.begun

    def _begin(self) -> None:
        with self._lock:
            if self.ended:
                raise SessionGone(f"session {self.name} has ended")
            if not self.begun:
                self._thread.start()

    def hold_control(self, connection: Connection) -> None:
        """Take a control connection for the session's; it ends with the session, and the one before ends now."""
        with self._lock:
            before, self._control = self._control, connection
        if before is not None:
            before.shut()
        if self.ended:
            connection.shut()

    def stop(self) -> None:
        """End it, and wait for its thread."""
        self.line.end()
        self.leave()
        if self.begun and threading.current_thread() is not self._thread:
            self._thread.join()

    def grow(self, nbytes: int) -> None:
        """From now on frames may be larger."""
        self.limits = Limits(body_bytes=max(nbytes, self.limits.body_bytes))
        if connection := self.line.connection:
            connection.set_limits(self.limits)

    def _await_edge(self, line: Line, error: ConnectionLost) -> None:
        comes_back = line.returns > 0  # else its first connection is about to come
        if comes_back:
            log.info("session %s: %s; it may come back within %.0f s", self.name, printable(str(error)), self._away_s)
        if not line.await_adoption(self._away_s):
            self._fail(words := f"{error}; it did not come back within {self._away_s:g} s")
            raise ConnectionLost(words)
        if comes_back and not line.ended:
            log.info("session %s: %s is back", self.name, line.peer)

    def _guard(self) -> None:
        try:
            self._run()
            log.info("session %s finished: %d steps", self.name, self.progress.answered)
        except ConnectionLost as error:
            if self._all_answered:  # the edge has only not said good-bye
                log.info("session %s finished: %d steps", self.name, self.progress.answered)
            else:
                self._warn(error)
        except (SessionGone, PeerError) as error:  # an edge that fell may be started again
            self._warn(error)
        except TandemError as error:
            self._fail(str(error))
            self._warn(error)
        except Exception as error:
            self._fail(f"{type(error).__name__}: {error}")
            log.exception("session %s failed after %d steps", self.name, self.progress.answered)
        finally:
            self.ended = True
            self.leave()
            if self.station.store is not None:
                self.station.store.join()
            with self._lock:
                if self._control is not None:
                    self._control.shut()
            self._place.ended(self)

    def _fail(self, why: str) -> None:
        """Tell those that this session's party trains with."""
        if self.station.seat is not None:
            self.station.seat.fail(why)

    def _warn(self, error: TandemError) -> None:
        words = f"session {self.name} ended after {self.progress.answered} steps: {error}"
        log.warning("%s: %s", self.line.peer, printable(words))

    def _run(self) -> None:
        station = self.station
        # A new thread takes over torch's number of threads only when it first asks for it. Until then MKL uses all
        # cores, whatever --threads says, and a sum split in two rounds otherwise than the same sum in one.
        torch.get_num_threads()
        duplex: Duplex[Leaving, Arrived] = Duplex(self.line, station.encode, station.decode, self._place.queue_limit)
        with duplex:
            while not isinstance(item := duplex.collect(), Bye):
                if isinstance(item, Finish) and not isinstance(station.seat, Latecomer):
                    self._save()  # before the edge, or any party, hears that all is well
                leaving = self._act(item)
                if isinstance(leaving, Finished):
                    self._away_s, self._all_answered = LINGER_S, True
                duplex.submit(leaving)
                if isinstance(leaving, Answer) and leaving.training:
                    self._count(leaving)
                elif isinstance(leaving, Answer) or (isinstance(leaving, Upload) and not leaving.training):
                    self._count_epoch(getattr(item, "epoch", 0))
        if station.store is not None:
            station.store.clear()  # its edge has said that it has all

    def _act(self, item: Arrived) -> Leaving:
        if isinstance(item, Averaging) or self.station.seat is not None:
            # It waits for others, who need the place meanwhile.
            return self.station.act(item)
        with self.station.turns, self._place.turns:
            return self.station.act(item)

    def _count(self, answer: Answer) -> None:
        self.progress.answered += 1
        self.progress.trained.add(answer.loss, answer.correct, answer.count)

    def _count_epoch(self, epoch: int) -> None:
        """An evaluation has begun: an epoch is over."""
        if self.progress.trained.count:
            trained, self.progress.trained = self.progress.trained, Score()
            log.info("session %s: epoch %d, training %s", self.name, epoch + 1, trained)

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "job.json", self.station.job)
        state = self.station.tail.part.state_dict()
        part = "tail" if self.station.job.direction == "up" else "head"
        save_file({name: value.contiguous() for name, value in state.items()}, self.folder / f"{part}.safetensors")
        log.info("session %s: its %s is in %s", self.name, part, self.folder)


def _nothing() -> None:
    """Of a session that has nothing in common with others."""
