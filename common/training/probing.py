"""Pings over a control connection: round trips, and bodies that take their time where nothing else tells the rates."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import msgspec

from common.errors import ConnectionLost, PeerSilent, ProtocolError
from common.planning.log import Context
from common.planning.probes import SURVEY_S
from common.training.monitor import LinkMonitor
from common.training.pace import Pace, Paces
from common.wire.messages import Ping, Pong
from common.wire.tcp import CONTROL_LIMITS, Connection, Received, expect

_FIRST_LOOKS = 6  # at least, with probes that grow to the largest


@dataclass(frozen=True)
class _Asked:
    """A ping on its way."""

    number: int
    sent_s: float
    up_bytes: int
    down_bytes: int


class Pinger:
    """Asks over a control connection, one ping at a time, and tells a monitor what the answers show.

    Args:
        connection: on which the peer answers.
        monitor: takes round trips and probes.
        paces: of a party that trains with others: what it tells them, and hears.
    """

    def __init__(self, connection: Connection, monitor: LinkMonitor, paces: Paces | None = None) -> None:
        self.connection = connection
        self._monitor, self._paces = monitor, paces or Paces()
        self._number = 0
        self._asked: _Asked | None = None

    def beat(self, moved: tuple[int, int]) -> None:
        """Ask, unless an answer is still due; wait for it; and probe what is due to be probed.

        Args:
            moved: bytes of training so far, up and down.

        Raises:
            PeerSilent: no answer within the connection's timeout; it may come in the next beat.
            ConnectionLost: the connection is of no further use.
        """
        if self._asked is None:
            self._ask(0, 0)
        self._hear()
        self._probe(*self._monitor.probes(moved))

    def survey(self) -> None:
        """Ask, and probe both ways: for a link that carries nothing else."""
        self._ask(0, 0)
        self._hear()
        self._probe(*self._monitor.survey())

    def _probe(self, up_bytes: int, down_bytes: int) -> None:
        if up_bytes or down_bytes:
            self._ask(up_bytes, down_bytes)
            self._hear()

    def _ask(self, up_bytes: int, down_bytes: int) -> None:
        self._number += 1
        self._asked = _Asked(self._number, time.perf_counter(), up_bytes, down_bytes)
        own = self._paces.own
        _send(self.connection, Ping(self._number, down_bytes, own.step_s, own.turn_s), up_bytes)

    def _hear(self) -> None:
        received = self.connection.receive()
        pong, asked = expect(received.frame, Pong), self._asked
        if asked is None or pong.number != asked.number:
            raise ProtocolError(f"the peer answered ping {pong.number}, which was not asked")
        self._asked = None
        if pong.step_s is not None:
            self._paces.others = Pace.received(pong.step_s, pong.turn_s)
        if not asked.up_bytes and not asked.down_bytes:
            self._monitor.answered(time.perf_counter() - asked.sent_s)
        if asked.up_bytes:
            self._monitor.probed("up", asked.up_bytes, pong.timed_bytes, pong.seconds)
        if asked.down_bytes:
            self._monitor.probed("down", asked.down_bytes, received.timed_bytes, received.seconds)


def answer(connection: Connection, received: Received, tell: Callable[[Pace], Pace | None] | None = None) -> None:
    """Answer a ping.

    Args:
        connection: on which it came.
        received: the ping.
        tell: takes the pace of a party; that of the others, as far as it is known.

    Raises:
        ProtocolError: it is none, wants more than an answer may have, or tells what cannot be.
        ConnectionLost: the peer is gone, or takes nothing.
    """
    ping = expect(received.frame, Ping)
    if not 0 <= ping.wanted <= CONTROL_LIMITS.body_bytes:
        raise ProtocolError(f"a ping wants {ping.wanted} bytes; the limit here is {CONTROL_LIMITS.body_bytes}")
    pace = Pace.received(ping.step_s, ping.turn_s)
    pong = Pong(ping.number, time.perf_counter(), received.seconds, received.timed_bytes)
    if tell is not None and (others := tell(pace)) is not None:
        pong = msgspec.structs.replace(pong, step_s=others.step_s, turn_s=others.turn_s)
    _send(connection, pong, ping.wanted)


def measure_link(control: Connection, monitor: LinkMonitor) -> Context:
    """What pings and probes show of a link that carries nothing else.

    They take `SURVEY_S`, and the link half of the time; longer where some of them take that long.

    Raises:
        ConnectionLost: the connection broke, or the peer is silent.
    """
    control.set_limits(CONTROL_LIMITS)
    pinger = Pinger(control, monitor)
    began_s = now_s = time.perf_counter()
    looks = 0
    while looks < _FIRST_LOOKS or now_s - began_s < SURVEY_S:
        looked_s = now_s
        pinger.survey()
        took_s, left_s = time.perf_counter() - looked_s, began_s + SURVEY_S - time.perf_counter()
        time.sleep(max(min(took_s, left_s), 0.0))
        now_s, looks = time.perf_counter(), looks + 1
    return monitor.context()


def _send(connection: Connection, message: Ping | Pong, nbytes: int) -> None:
    """Send a message with so many bytes of noise."""
    try:
        connection.send(message, [_noise()[:nbytes]] if nbytes else [])
    except PeerSilent as error:  # perhaps within the frame, and nothing can follow half of one
        raise ConnectionLost(str(error)) from None


@cache
def _noise() -> memoryview:
    """Bytes that no path makes fewer."""
    return memoryview(os.urandom(CONTROL_LIMITS.body_bytes))
