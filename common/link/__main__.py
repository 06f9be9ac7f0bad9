"""The link as a program between two processes: `python -m common.link --link wifi --ip SERVER`.

It runs until Ctrl-C or SIGTERM, or until traces that do not loop have ended. SIGUSR1 breaks all current connections;
SIGUSR2 stops all that moves, so that nothing comes and nothing ends, and lets it move on when it comes again.
"""

import math
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import parse_context
from common.link.emulate import Link, Route
from common.link.trace import Trace
from common.link.trace_file import Direction, read_trace


@dataclass(frozen=True)
class LinkConfig:
    """Relay the data port and the control port of a server over an emulated link."""

    link: str = "wifi"
    """iot, 4g, 4g+, wifi, 5g, wired, or UP/DOWN/RTT[/JITTER] in Mbit/s and ms, such as 20/20/40/5."""
    trace_up: Path | None = None
    """Replay this bandwidth trace from client to server instead of the link's rate: a Mahimahi file, or CSV with
    columns time_s and up_mbps; .gz as well."""
    trace_down: Path | None = None
    """The same from server to client; of a CSV file the column down_mbps."""
    trace_loop: bool = True
    """Begin a trace again at its end; else the link ends with the longest of them."""
    trace_start: float | None = None
    """Seconds into the traces at which the first connection to the data port finds them, however long it takes to
    come; until then they run from 10 s before. So runs that begin differently can meet the same network."""
    ip: str = "127.0.0.1"
    """Host of the server behind the link."""
    port: int = 1883
    """Data port of the server."""
    hyperport: int = 1884
    """Control port of the server."""
    listen_ip: str = "127.0.0.1"
    """Address on which clients reach the link."""
    listen_port: int = 2883
    """Port that stands for the data port; 0 takes any free one."""
    listen_hyperport: int = 2884
    """Port that stands for the control port; 0 takes any free one."""
    seed: int = 0
    """Seed of the jitter."""
    debug: bool = False
    """Show tracebacks."""


def run_link(config: LinkConfig) -> None:
    """Relay until SIGINT or SIGTERM, or the end of the traces."""
    context = parse_context(config.link)
    up, down = _trace(config, config.trace_up, "up"), _trace(config, config.trace_down, "down")
    routes = (
        Route((config.listen_ip, config.listen_port), (config.ip, config.port)),
        Route((config.listen_ip, config.listen_hyperport), (config.ip, config.hyperport)),
    )
    start_s = _trace_start(config)
    with _signals() as signals, Link(context, routes, config.seed, up=up, down=down, trace_start_s=start_s) as link:
        signal.setitimer(signal.ITIMER_REAL, _length_s(up, down))
        traces = "".join(f"; {way} trace {each}" for way, each in (("up", up), ("down", down)) if each)
        for (host, port), route in zip(link.addresses, routes, strict=True):
            print(f"{host}:{port} -> {route.target[0]}:{route.target[1]}, {context}{traces}", flush=True)
        frozen = False
        while (number := signals.recv(1)[0]) in (signal.SIGUSR1, signal.SIGUSR2):
            if number == signal.SIGUSR1:
                link.sever()
            else:
                frozen = not frozen
                (link.freeze if frozen else link.thaw)()


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket from which the number of each signal can be read, whichever thread the kernel gives it to.

    Waiting for blocked signals would not do: a library's thread that was started before they were blocked takes them.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno())
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            signal.signal(each, lambda *_: None)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(before)


def _trace(config: LinkConfig, path: Path | None, direction: Direction) -> Trace | None:
    return None if path is None else read_trace(path, direction, loop=config.trace_loop)


def _trace_start(config: LinkConfig) -> float | None:
    if config.trace_start is None:
        return None
    if not 0 <= config.trace_start < math.inf:
        raise UsageError(f"--trace_start is {config.trace_start}; it takes seconds into the traces, 0 or more")
    if config.trace_up is None and config.trace_down is None:
        raise UsageError("--trace_start has no trace to start; give --trace_up, --trace_down, or both")
    if not config.trace_loop:
        raise UsageError("--trace_start is for traces that begin again at their end; leave --no_trace_loop out")
    return config.trace_start


def _length_s(*traces: Trace | None) -> float:
    """How long the link lasts: until the longest trace ends; 0 for ever, where traces loop or there is none."""
    lengths = [each.duration_s for each in traces if each and not each.loop]
    return max(lengths, default=0.0)


def main() -> None:
    """Parse the flags and run the link."""
    run_link(parse(LinkConfig))


if __name__ == "__main__":
    run_command(main, until_stopped=True)
