"""What does TLS cost? ``python -m benchmarks.protection [--json FILE]``.

Two processes with a core each, over loopback. Frames of one tensor go one way: without TLS, under TLS as Tandem uses
it (`common.wire.tls`, fit for two threads at once), and the same bytes through a bare ``ssl.SSLSocket``. The rounds of
the three go by turns. Beside it: how long it takes until a connection may be used.
"""

import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from benchmarks.round_trip import HOST, cpu_s, pin
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import TandemError, UsageError
from common.wire.admission import ClientSecurity, ServerSecurity
from common.wire.certificates import create
from common.wire.messages import Finish, Gradients
from common.wire.security import client_security, server_security
from common.wire.structs import Payload, TensorSpec
from common.wire.tcp import Connection

_TIMEOUT_S = 120.0
PLAIN, TLS, BARE = WAYS = ("frames", "frames under TLS", "bare ssl.SSLSocket")


@dataclass(frozen=True)
class Options:
    """MB/s and CPU time with and without TLS."""

    kib: int = 1024
    """Size of the tensor in each frame."""
    frames: int = 300
    """Frames of a round."""
    rounds: int = 7
    """Rounds of each kind, by turns; the median counts."""
    connections: int = 50
    """Connections that are made and left, for their time."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Measure and print both tables."""
    options = parse(Options)
    for name in ("kib", "frames", "rounds", "connections"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be 1 or more")
    here = machine()
    print(here)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    near, far = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    with tempfile.TemporaryDirectory() as folder:
        create(Path(folder), (HOST,), 100, ())
        client = client_security(HOST, Path(folder), insecure=False)
        if client is None:
            raise TandemError("a folder was given, and no protection came of it")
        with _receiver(Path(folder), options.kib << 10, far) as (port, pipe):
            pin(near)
            throughput = _throughput(options, port, pipe, client)
            setup = _setup(options, port, client)
            pipe.send(None)
            socket.create_connection((HOST, port)).close()
    for rows in (throughput, setup):
        print()
        print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": here, "throughput": throughput, "setup": setup}, indent=2))


def _throughput(options: Options, port: int, pipe: Pipe, client: ClientSecurity) -> list[dict[str, Any]]:
    payload = bytearray(os.urandom(options.kib << 10))
    measured: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds + 1):
        for way in WAYS:
            measured[way].append(_send(way, port, pipe, client, payload, options.frames))
    megabytes = options.frames * len(payload) / 1e6
    rows = []
    for way, (_warm_up, *rounds) in measured.items():
        wall, mine, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
        rows.append(
            {
                "way": way,
                "KiB": options.kib,
                "MB_per_s": megabytes / wall,
                "MB_per_s_least": megabytes / max(each[0] for each in rounds),
                "MB_per_s_most": megabytes / min(each[0] for each in rounds),
                "sender_cpu_ms_per_100_MB": 1e5 * mine / megabytes,
                "receiver_cpu_ms_per_100_MB": 1e5 * theirs / megabytes,
            }
        )
    return rows


def _send(
    way: str, port: int, pipe: Pipe, client: ClientSecurity, payload: bytearray, frames: int
) -> tuple[float, float, float]:
    """Seconds, and CPU seconds of the sender and of the receiver."""
    pipe.send((way, frames))
    sock = socket.create_connection((HOST, port))
    if way == BARE:
        with client.context.wrap_socket(sock, server_hostname=HOST) as bare:
            before, started = cpu_s(), time.perf_counter()
            for _ in range(frames):
                bare.sendall(payload)
            bare.recv(1)
            return time.perf_counter() - started, cpu_s() - before, float(_answer(pipe))
    message = Gradients(0, True, 0.0, 0, 1, Payload("none", (TensorSpec("uint8", (len(payload),)),)))
    with Connection(sock) as connection:
        if way == TLS:
            client.introduce(connection, HOST)
        before, started = cpu_s(), time.perf_counter()
        for _ in range(frames):
            connection.send(message, [payload])
        connection.receive()
        return time.perf_counter() - started, cpu_s() - before, float(_answer(pipe))


def _setup(options: Options, port: int, client: ClientSecurity) -> list[dict[str, Any]]:
    """Milliseconds until a connection may be used; the receiver is told nothing, and drops each."""
    rows = []
    for way in (PLAIN, TLS):
        took = []
        for _ in range(options.connections):
            started = time.perf_counter()
            with Connection(socket.create_connection((HOST, port))) as connection:
                if way == TLS:
                    client.introduce(connection, HOST)
                took.append(1e3 * (time.perf_counter() - started))
        rows.append({"way": way, "connection_ms": statistics.median(took), "least_ms": min(took)})
    return rows


@contextmanager
def _receiver(folder: Path, nbytes: int, core: int | None) -> Iterator[tuple[int, Pipe]]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_receive, args=(theirs, folder, nbytes, core), daemon=True)
    process.start()
    theirs.close()
    try:
        yield int(_answer(mine)), mine
        process.join(_TIMEOUT_S)
    finally:
        process.kill()
        process.join()
        mine.close()


def _receive(pipe: Pipe, folder: Path, nbytes: int, core: int | None) -> None:
    """The receiving process: one round for each word from the pipe; connections in between are only admitted."""
    pin(core)
    server = server_security(HOST, folder, insecure=False)
    if server is None:
        raise TandemError("a folder was given, and no protection came of it")
    into = memoryview(bytearray(nbytes))
    with socket.create_server((HOST, 0)) as listener:
        pipe.send(listener.getsockname()[1])
        while True:
            sock, _ = listener.accept()
            if not pipe.poll():
                _admit_only(sock, server)
                continue
            order = pipe.recv()
            if order is None:
                sock.close()
                return
            way, frames = order
            pipe.send(_take(way, frames, sock, server, into))


def _admit_only(sock: socket.socket, server: ServerSecurity) -> None:
    with Connection(sock) as connection:
        try:
            server.admit(connection)
        except TandemError:  # the connections without TLS close at once
            return


def _take(way: str, frames: int, sock: socket.socket, server: ServerSecurity, into: memoryview) -> float:
    """CPU seconds of receiving a round."""
    if way == BARE:
        with server.context.wrap_socket(sock, server_side=True) as bare:
            before = cpu_s()
            for _ in range(frames):
                rest = into
                while rest:
                    rest = rest[bare.recv_into(rest) :]
            bare.sendall(b"\0")
            return cpu_s() - before
    with Connection(sock) as connection:
        if way == TLS:
            server.admit(connection)
        before = cpu_s()
        for _ in range(frames):
            connection.receive()
        connection.send(Finish())
        return cpu_s() - before


def _answer(pipe: Pipe) -> Any:
    try:
        if pipe.poll(_TIMEOUT_S):
            return pipe.recv()
    except EOFError:
        pass
    raise TandemError("the receiving process of this benchmark died, or said nothing for two minutes")


if __name__ == "__main__":
    run_command(main)
