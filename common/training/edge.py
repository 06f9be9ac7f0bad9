"""The edge's run from opening a session to its last step, whatever breaks in between.

A connection that breaks is replaced under the training, which only waits. A server that was restarted has its sessions
no more: then both sides go back to the newest checkpoint that both have, and the steps behind it are computed again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from common.errors import ConnectionLost, DataError, SessionGone
from common.naming import printable
from common.training.alone import MakeStation, Refuge, newest_copy, train_alone
from common.training.checkpoint import CheckpointStore, read_facts
from common.training.heartbeat import Heartbeat
from common.training.in_process import InProcess
from common.training.line import Line
from common.training.monitor import LinkMonitor
from common.training.pace import Paces
from common.training.part_state import State, unflat
from common.training.remote import RECONNECT_S, Cloud, OpenSession, Reattacher, open_session
from common.training.remote_tail import Remote
from common.training.run_state import EdgeFacts
from common.training.station import TailFacts, kept_answers
from common.training.trainer import Trainer
from common.wire.structs import Resume

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Journey:
    """How an edge travels: where its server is, and what it bears."""

    cloud: Cloud
    largest_body: int
    """Bytes of the largest body that an answer can have."""
    queue_limit: int
    most_under_way: int
    """Uploads without an answer collected."""
    reconnect_s: float = RECONNECT_S
    monitor: LinkMonitor = field(default_factory=LinkMonitor)
    """Told what is to be known of the link."""
    replies: bool = False
    """Whether the edge's half replies to each answer."""
    paces: Paces | None = None
    """Of a party that plans: what it tells the others while it trains, and hears."""

    @property
    def window(self) -> int:
        """Frames without an answer received; between two uploads there may be a reply and a checkpoint."""
        return (3 if self.replies else 2) * self.most_under_way + 2


@dataclass(frozen=True)
class Journeyed:
    """A run that has ended well."""

    digests: dict[str, str]
    """Of the tail."""
    session: OpenSession | None
    """As it was opened last; None of a run that ended alone."""
    tail: State | None = None
    """Of a run that ended alone."""


def train_remotely(
    trainer: Trainer,
    journey: Journey,
    keep: Callable[[Journeyed], T],
    *,
    resume: bool = False,
    refuge: Refuge | None = None,
) -> T:
    """Train with a server to the end of the run; what ``keep`` returns.

    Args:
        trainer: of the head.
        journey: to the server.
        keep: writes what is to be had of the run, before the server forgets it: who is killed until then can go on.
        resume: go on from the trainer's store.
        refuge: train alone while the server is away; without it the run stops.

    Raises:
        ConnectionLost: the server was away for too long.
        SessionGone: the server has lost the session, and there is no checkpoint that both have.
        TandemError: anything else that ends a run.
    """
    tail: State | None = None
    alone = refuge is not None and resume and _was_alone(trainer)
    reached = False
    while True:
        opened = False
        try:
            if alone and refuge is not None:
                digests, tail = train_alone(trainer, refuge, journey.cloud)
                if digests is not None:
                    return keep(Journeyed(digests, None, tail))
                trainer.go_with()
                alone = resume = False
            session = _open(trainer, journey, resume=resume, reached=reached)
            reached = opened = True
            if resume:
                trainer.restore(session.checkpoint)
                trainer.recorder.resumes += 1
                log.info("training goes on from step %d", trainer.step)
            handed, tail = tail, None
            return _train(trainer, journey, session, handed, keep)
        except SessionGone as gone:
            trainer.store.join()
            none_on_both = resume and not opened
            if refuge is not None and none_on_both and newest_copy(trainer, refuge):
                alone = True
            elif none_on_both or not trainer.store.numbers():
                raise
            log.warning("%s; going back to a checkpoint", printable(str(gone)))
            resume = True
        except ConnectionLost as lost:
            if refuge is None or not newest_copy(trainer, refuge):
                raise
            log.warning("%s", printable(str(lost)))
            alone = True


def train_here(trainer: Trainer, make: MakeStation, store: CheckpointStore, *, resume: bool = False) -> dict[str, str]:
    """Train with the tail in this process; digests of the tail.

    Args:
        trainer: of the head.
        make: makes the other half.
        store: its checkpoints, which are to be cleared when all of the run is written.
        resume: go on from the stores of both.

    Raises:
        DataError: there is no checkpoint to go on from.
        TandemError: anything else that ends a run.
    """
    if resume:
        numbers = set(trainer.store.numbers()) & set(store.numbers())
        if not numbers:
            raise DataError(f"{trainer.store.folder.parent} has no checkpoint to go on from")
        number = max(numbers)
        tensors, facts = store.read(number, TailFacts)
        trainer.restore(number)
        store.forget_behind(number)
        station = make(facts.job, received=number, state=unflat(tensors, "tail/"))
        station.load(tensors, facts)
        trainer.recorder.resumes += 1
        log.info("training goes on from step %d", trainer.step)
        # The last one answers the checkpoint itself.
        carrier = InProcess(
            trainer.head, station, trainer.journal, tally=trainer.tally, answers=kept_answers(tensors)[:-1]
        )
    else:
        carrier = InProcess(trainer.head, make(trainer.job), trainer.journal)
    return trainer.run(carrier)


def _open(trainer: Trainer, journey: Journey, *, resume: bool, reached: bool) -> OpenSession:
    cloud = journey.cloud
    wanted, received, job = None, {}, trainer.job
    if resume:
        facts = _facts(trainer)
        newest = facts[max(facts)]
        wanted = Resume(newest.session, newest.key, tuple(sorted(facts)))
        received = {number: each.answered for number, each in facts.items()}
        job = newest.job
    session = open_session(
        cloud.ip,
        cloud.port,
        cloud.hyperport,
        job,
        journey.largest_body,
        cloud.security,
        window=journey.window,
        resume=wanted,
        received=received,
        patience_s=journey.reconnect_s,
        reached=reached,
    )
    for note in session.notes:
        log.warning("note: %s", printable(note))
    log.info(
        "session %s at %s, round trip %.1f ms", printable(session.name, 64), session.training.peer, 1e3 * session.rtt_s
    )
    return session


def _was_alone(trainer: Trainer) -> bool:
    facts = _facts(trainer)
    return facts[max(facts)].alone


def _train(
    trainer: Trainer, journey: Journey, session: OpenSession, handed: State | None, keep: Callable[[Journeyed], T]
) -> T:
    trainer.session = (session.name, session.key)
    trainer.share = session.share
    trainer.journal.clock_offset_s = session.clock_offset_s
    trainer.journal.monitor, trainer.recorder.link = journey.monitor, journey.monitor.context
    line = Line(
        session.training,
        restore=Reattacher(journey.cloud, session, journey.largest_body, journey.reconnect_s),
        limit=journey.queue_limit,
        sent=trainer.tally.sent,
        received=trainer.tally.answered,
    )
    with (
        Heartbeat(journey.cloud, session, line, journey.monitor, journey.paces),
        Remote(
            trainer.head,
            line,
            trainer.journal,
            queue_limit=journey.queue_limit,
            most_under_way=journey.most_under_way,
            tally=trainer.tally,
        ) as carrier,
    ):
        if handed is not None:
            trainer.come_back(carrier, handed)
        try:
            digests = trainer.run(carrier)
        finally:
            trainer.recorder.faults += line.breaks
            trainer.recorder.resumes += line.returns
        return keep(Journeyed(digests, session))


def _facts(trainer: Trainer) -> dict[int, EdgeFacts]:
    """What the readable ones of the trainer's checkpoints say."""
    facts = {}
    for number in trainer.store.numbers():
        try:
            facts[number] = read_facts(trainer.store.folder, number, EdgeFacts)
        except DataError as error:
            log.warning("%s", error)
    if not facts:
        raise DataError(f"{trainer.store.folder} has no checkpoint to go on from")
    return facts
