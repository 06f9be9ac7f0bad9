"""CPU time of a request and its reply as frames, against the same bytes through bare socket calls; without torch."""

import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from common.wire.messages import Gradients
from common.wire.structs import Payload, TensorSpec
from common.wire.tcp import Connection

HOST = "127.0.0.1"
_WARM_UP = 20


@dataclass(frozen=True)
class Load:
    """What is sent to and fro."""

    nbytes: int
    trips: int
    """Round trips of a round."""
    rounds: int
    """Rounds of each kind, by turns."""


@dataclass(frozen=True)
class Round:
    """One process's CPU seconds in a round of each kind."""

    plain_s: float
    frames_s: float


def serve(pipe: Pipe, load: Load, core: int | None) -> None:
    """The answering process: says where it listens, and at the end what its rounds took."""
    pin(core)
    with socket.create_server((HOST, 0)) as listener:
        pipe.send(listener.getsockname()[1])
        sock, _ = listener.accept()
    pipe.send(_rounds(sock, load, answering=True))


def request(port: int, load: Load, core: int | None) -> list[Round]:
    """The asking process."""
    pin(core)
    return _rounds(socket.create_connection((HOST, port)), load, answering=False)


def pin(core: int | None) -> None:
    """Keep this process on a core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def cpu_s() -> float:
    """CPU seconds of this process so far, in user code and in the kernel."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _rounds(sock: socket.socket, load: Load, *, answering: bool) -> list[Round]:
    payload, into = bytearray(os.urandom(load.nbytes)), memoryview(bytearray(load.nbytes))
    message = Gradients(0, True, 0.0, 0, 1, Payload("none", (TensorSpec("uint8", (load.nbytes,)),)))
    with Connection(sock) as connection:  # it sets the socket's options, which hold for the bare calls too

        def plain_send() -> None:
            rest = memoryview(payload)
            while rest:
                rest = rest[sock.sendmsg([rest]) :]

        def plain_receive() -> None:
            rest = into
            while rest:
                rest = rest[sock.recv_into(rest, 0, socket.MSG_WAITALL) :]

        def frames_send() -> None:
            connection.send(message, [payload])

        def frames_receive() -> None:
            connection.receive()

        def taken(trips: int, send: Callable[[], None], receive: Callable[[], None]) -> float:
            first, second = (receive, send) if answering else (send, receive)
            before = cpu_s()
            for _ in range(trips):
                first()
                second()
            return cpu_s() - before

        plain, frames = (plain_send, plain_receive), (frames_send, frames_receive)
        taken(_WARM_UP, *plain)
        taken(_WARM_UP, *frames)
        return [Round(taken(load.trips, *plain), taken(load.trips, *frames)) for _ in range(load.rounds)]
