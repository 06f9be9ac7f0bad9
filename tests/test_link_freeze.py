"""A link that stands still: nothing comes, nothing ends, and all moves on from where it stood."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from common.link.contexts import LinkContext
from common.link.emulate import Link
from tests.test_link import FAST, TIMEOUT_S, link_threads, receive, rig, sending

pytestmark = pytest.mark.timeout(60)

MOMENT_S = 0.05  # to see that nothing comes; a correct link passes however long it is


def drained(sock: socket.socket, quiet_s: float = MOMENT_S) -> int:
    """How many bytes come until there is silence; it is no end of the stream."""
    sock.settimeout(quiet_s)
    size_bytes = 0
    try:
        while part := sock.recv(65536):
            size_bytes += len(part)
    except TimeoutError:
        return size_bytes
    finally:
        sock.settimeout(TIMEOUT_S)
    pytest.fail("the stream has ended")


def test_nothing_moves_and_nothing_is_lost() -> None:
    with rig(FAST) as link:
        client, server = link.connect()
        client.sendall(b"before")
        assert receive(server, 6) == b"before"
        link.link.freeze()
        client.sendall(b"up")
        server.sendall(b"down")
        assert drained(server) == drained(client) == 0
        link.link.thaw()
        assert receive(server, 2) == b"up"
        assert receive(client, 4) == b"down"


def test_nothing_ends() -> None:
    with rig(FAST) as link:
        client, server = link.connect()
        link.link.freeze()
        client.shutdown(socket.SHUT_WR)
        assert drained(server) == 0
        link.link.thaw()
        assert server.recv(1) == b""


def test_who_connects_waits() -> None:
    with rig(FAST) as link:
        link.link.freeze()
        with closing(socket.create_connection(link.link.addresses[0], timeout=TIMEOUT_S)) as client:
            client.sendall(b"hello")
            link.listener.settimeout(MOMENT_S)
            with pytest.raises(TimeoutError):
                link.listener.accept()
            link.listener.settimeout(TIMEOUT_S)
            link.link.thaw()
            server, _ = link.listener.accept()
            with server:
                server.settimeout(TIMEOUT_S)
                assert receive(server, 5) == b"hello"


@pytest.mark.parametrize("breaks", [Link.sever, Link.close])
def test_what_stands_still_can_be_broken(breaks: Callable[[Link], object]) -> None:
    with rig(FAST) as link:
        client, server = link.connect()
        link.link.freeze()
        client.sendall(b"lost")
        with closing(socket.create_connection(link.link.addresses[0], timeout=TIMEOUT_S)):  # it has not got through
            breaks(link.link)
            for sock in (client, server):
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
    assert not link_threads()


def test_it_says_how_many_it_has_broken() -> None:
    with rig(FAST) as link:
        assert link.link.sever() == 0
        link.connect()
        link.connect(1)
        assert link.link.sever() == 2
        assert link.link.sever() == 0


@pytest.mark.slow
def test_the_time_is_not_made_up_for() -> None:
    rate_bps, size_bytes = 40e6, 2_000_000
    with rig(LinkContext("", rate_bps / 1e6, 1000, 0)) as link:
        client, server = link.connect()
        with sending(client, bytes(size_bytes)):
            receive(server, 100_000)
            link.link.freeze()
            drained(server, quiet_s=0.3)
            had_bytes, begun_s = link.link.bytes_up + link.link.max_buffered_bytes, time.monotonic()
            link.link.thaw()
            receive(server, size_bytes)  # to the end of the stream
            seconds = time.monotonic() - begun_s
        assert link.link.bytes_up == size_bytes
        # Made up for, the 0.3 s would bring 1.5 MB at once.
        assert seconds >= (size_bytes - had_bytes) * 8 / rate_bps * 0.6


@pytest.mark.slow
def test_the_program_stands_still_on_a_signal() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(TIMEOUT_S)
        port = listener.getsockname()[1]
        flags = f"--link 200/300/2 --port {port} --hyperport {port} --listen_port 0 --listen_hyperport 0"
        command = [sys.executable, "-m", "common.link", *flags.split()]
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as program:
            assert program.stdout is not None
            host, _, listening = program.stdout.readline().split()[0].partition(":")
            with closing(socket.create_connection((host, int(listening)), timeout=TIMEOUT_S)) as client:
                server, _ = listener.accept()
                with server:
                    server.settimeout(TIMEOUT_S)
                    program.send_signal(signal.SIGUSR2)
                    for _ in range(100):  # words get through until the signal has
                        client.sendall(b"x")
                        if not drained(server):
                            break
                    else:
                        pytest.fail("it has not stopped")
                    program.send_signal(signal.SIGUSR2)
                    assert receive(server, 1) == b"x"
            program.send_signal(signal.SIGTERM)
            assert program.wait(TIMEOUT_S) == 0
