"""Parties find each other on a server and learn which samples they have in common; the server's side and theirs."""

import logging
import secrets
import threading
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from common.errors import JobRefused, ProtocolError, TandemError
from common.naming import letter, printable
from common.records import software_version
from common.training.alignment import HELD_OUT, ID_BYTES, MAX_IDS, MAX_SALT_BYTES, TRAINING, Announcement, Marks, agree
from common.training.joint import Judge
from common.training.pace import NOT_PLANNED, Pace, slowest
from common.training.remote import Cloud
from common.training.session import MAX_PARTIES
from common.wire.framing import Limits
from common.wire.messages import PROTOCOL, Aligned, Identities, Meet, Met
from common.wire.structs import Job
from common.wire.tcp import Connection, Received, expect

log = logging.getLogger(__name__)

_BEAT_S = 1.0
_PADDING = 1 << 10  # that a frame's buffers may have between them
_LIMITS = Limits(header_bytes=1 << 16, body_bytes=MAX_IDS * (ID_BYTES + 1) + _PADDING)
_SALT_BYTES = 16


@dataclass(frozen=True)
class Agreed:
    """What parties that have met agreed on."""

    group: str
    """What their jobs are to be called."""
    marks: Marks
    """Of each sample of this party."""
    pace: Pace
    """Of all."""


@dataclass
class _Table:
    """Parties of one run that look for each other."""

    request: Meet
    here: dict[int, Meet] = field(default_factory=dict)
    announced: dict[int, Announcement] = field(default_factory=dict)
    closed: bool = False
    """All were there: who comes now meets at another table."""
    marks: Sequence[Marks] | None = None
    group: str = ""
    error: str = ""


class Labels(Protocol):
    """The labels of a server that has them."""

    def announce(self, salt: bytes) -> Announcement:
        """Its samples, under ids hashed with the parties' salt; empty where they were given one."""

    def agreed(self, group: str, salt: bytes, marks: Marks) -> None:
        """Which of them a group has in common."""

    def of(self, job: Job) -> Judge:
        """What is known of a group's samples."""


class Meetings:
    """The server's side.

    Args:
        allow: told of each group that has agreed, and how many parties it has.
        wait_s: how long a party waits for the others.
        labels: what this side announces itself, where it has the labels.
    """

    def __init__(self, allow: Callable[[str, int], None], wait_s: float, labels: Labels | None = None) -> None:
        self._allow, self._wait_s, self._labels = allow, wait_s, labels
        self._tables: dict[str, _Table] = {}
        self._changed = threading.Condition()

    def serve(self, connection: Connection, request: Meet) -> None:
        """Bring a party together with the others, over its control connection.

        Raises:
            JobRefused: it does not fit the others, or they did not come.
            ProtocolError: ids that cannot be.
        """
        _check(request)
        table = self._join(request)
        try:
            self._await(connection, table, lambda: not _missing(table.here, request), lambda: _met(table, request))
            with self._changed:
                pace = slowest(Pace(each.step_s, each.turn_s) for each in table.here.values())
                met = Met((), table.here[0].salt, pace.step_s, pace.turn_s)
            connection.send(met)
            connection.set_limits(_LIMITS)
            announcement = _announcement(connection.receive())
            self._announce(table, request.party, announcement)
            self._await(connection, table, lambda: table.marks is not None, lambda: _heard(table, request))
            if table.marks is None:
                raise JobRefused("the parties were not aligned")
            connection.send(Aligned((), table.group), [table.marks[request.party].tobytes()])
        except BaseException as error:
            self._leave(table, request, error)
            raise

    def _join(self, request: Meet) -> _Table:
        with self._changed:
            table = self._tables.setdefault(request.run, _Table(request))
            if request.party in table.here:
                raise JobRefused(
                    f"party {letter(request.party)} of run {request.run!r} is here already; choose another --party, or "
                    "another --run"
                )
            for name in ("parties", "decider"):
                mine, its = getattr(request, name), getattr(table.request, name)
                if mine != its:
                    raise JobRefused(
                        f"run {request.run!r} has {name} {its}, party {letter(request.party)} was started with {mine}"
                    )
            if table.here and bool(request.salt) != bool(table.request.salt):
                raise JobRefused("some parties were given a --salt and others were not; give all the same, or none")
            table.here[request.party] = request
            if len(table.here) == request.parties:
                table.closed = True
                del self._tables[request.run]
            self._changed.notify_all()
            return table

    def _leave(self, table: _Table, request: Meet, error: BaseException) -> None:
        """A party that has gone can come again, as long as the table is open."""
        with self._changed:
            table.here.pop(request.party, None)
            if table.closed:
                table.error = table.error or f"party {letter(request.party)} has left: {error}"
            elif not table.here:
                self._tables.pop(request.run, None)
            self._changed.notify_all()

    def _announce(self, table: _Table, party: int, announcement: Announcement) -> None:
        with self._changed:
            table.announced[party] = announcement
            if len(table.announced) == table.request.parties:
                ordered = [table.announced[each] for each in range(table.request.parties)]
                try:
                    marks = self._agree(table, ordered)
                except TandemError as error:
                    table.error = str(error)
                    raise
                self._allow(table.group, table.request.parties)
                common = [int((marks[0] == mark).sum()) for mark in (TRAINING, HELD_OUT)]
                log.info(
                    "run %s: %d parties have %d training and %d held-out samples in common (of %s)",
                    printable(table.request.run, 64),
                    table.request.parties,
                    *common,
                    ", ".join(str(len(each.ids)) for each in ordered),
                )
            self._changed.notify_all()

    def _agree(self, table: _Table, announced: list[Announcement]) -> Sequence[Marks]:
        """With the labels at this side, it is one more of those that must have a sample."""
        parties, labels, group = table.request.parties, self._labels, secrets.token_hex(8)
        at_server = table.request.decider == parties
        if at_server and labels is None:
            raise JobRefused(
                "the labels are to be at the server, which has none; start it with --dataset or --dataset_path"
            )
        if at_server and labels is not None:
            announced = [*announced, labels.announce(table.here[0].salt)]
        marks = agree(announced, table.request.decider, parties)
        if at_server and labels is not None:
            labels.agreed(group, table.here[0].salt, marks[-1])
        table.marks, table.group = marks, group
        return marks

    def _await(
        self, connection: Connection, table: _Table, ready: Callable[[], bool], word: Callable[[], Met | Aligned]
    ) -> None:
        """Wait for the others, with a word to the party now and then: so each side hears when the other is gone."""
        waited_s = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: ready() or bool(table.error), _BEAT_S)
                if table.error:
                    raise JobRefused(table.error)
                if ready():
                    return
                message = word()
            waited_s += _BEAT_S
            if waited_s > self._wait_s:
                names = ", ".join(letter(each) for each in message.missing)
                raise JobRefused(f"party {names} did not come within {self._wait_s:g} s")
            connection.send(message)


def align(
    cloud: Cloud,
    run: str,
    party: int,
    parties: int,
    decider: int,
    salt: bytes,
    announce: Callable[[bytes], Announcement],
    pace: Pace = NOT_PLANNED,
) -> Agreed:
    """A party's side: meet the others, announce samples, and hear which are in common.

    Args:
        cloud: the server.
        run: what the parties call their run.
        party: which one this is.
        parties: how many there are.
        decider: the party that says which samples are held out; ``parties`` for the server.
        salt: as the user gave it; empty to take one that the first party draws.
        announce: the announcement, its ids hashed with a salt.
        pace: of this party.

    Raises:
        PeerError: the server refuses, and says why.
        ConnectionLost: it cannot be reached.
    """
    drawn = b"" if salt else secrets.token_bytes(_SALT_BYTES)
    connection = cloud.dial_control()
    with connection:
        connection.send(
            Meet(PROTOCOL, software_version(), run, party, parties, decider, drawn, pace.step_s, pace.turn_s)
        )
        told: tuple[int, ...] = ()
        while (met := expect(connection.receive().frame, Met)).missing:
            if met.missing != told:
                told = met.missing
                log.info("run %s waits for party %s", run, ", ".join(letter(each) for each in told))
        common = Pace.received(met.step_s, met.turn_s)
        announcement = announce(salt or met.salt)
        count = len(announcement.ids)
        if count > MAX_IDS:
            raise ProtocolError(f"{count} samples are announced; {MAX_IDS} are the most")
        connection.set_limits(Limits(body_bytes=count + _PADDING))
        connection.send(Identities(count), [announcement.ids.tobytes(), announcement.held_out.tobytes()])
        while (received := connection.receive()) and expect(received.frame, Aligned).missing:
            continue
        aligned, buffers = expect(received.frame, Aligned), received.frame.buffers
        if len(buffers) != 1 or len(buffers[0]) != count:
            raise ProtocolError(f"marks of {sum(map(len, buffers))} samples came; {count} were announced")
        return Agreed(aligned.group, np.frombuffer(bytes(buffers[0]), np.uint8).copy(), common)


def _check(request: Meet) -> None:
    if request.protocol != PROTOCOL:
        raise JobRefused(
            f"the party speaks protocol {request.protocol} (software {request.software}), this server {PROTOCOL}; "
            "install the same version of Tandem on all machines"
        )
    if not 2 <= request.parties <= MAX_PARTIES:
        raise JobRefused(f"{request.parties} parties are to train together; it can be 2 to {MAX_PARTIES}")
    for name, end in (("party", request.parties), ("decider", request.parties + 1)):
        if not 0 <= getattr(request, name) < end:
            raise JobRefused(f"{name} is {getattr(request, name)} of {request.parties} parties; they count from 0")
    Pace.received(request.step_s, request.turn_s)
    if len(request.salt) > MAX_SALT_BYTES or not 1 <= len(request.run) <= 64:
        raise JobRefused(f"a run's name has 1 to 64 letters, its salt {MAX_SALT_BYTES} bytes at most")


def _announcement(received: Received) -> Announcement:
    """Checked against what it says of itself."""
    message, buffers = expect(received.frame, Identities), received.frame.buffers
    count = message.count
    if not 0 < count <= MAX_IDS or [len(each) for each in buffers] != [count * ID_BYTES, count]:
        raise ProtocolError(
            f"{count} samples are announced in buffers of {[len(each) for each in buffers]} bytes; each has {ID_BYTES} "
            f"and 1, and {MAX_IDS} are the most"
        )
    ids = np.frombuffer(bytes(buffers[0]), np.uint8).reshape(count, ID_BYTES)
    held_out = np.frombuffer(bytes(buffers[1]), np.uint8)
    return Announcement(ids, held_out)


def _missing(present: Container[int], request: Meet) -> tuple[int, ...]:
    return tuple(each for each in range(request.parties) if each not in present)


def _met(table: _Table, request: Meet) -> Met:
    return Met(_missing(table.here, request))


def _heard(table: _Table, request: Meet) -> Aligned:
    return Aligned(_missing(table.announced, request))
