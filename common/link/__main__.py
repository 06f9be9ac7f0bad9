"""The link as a program between two processes: `python -m common.link --link wifi --ip SERVER`.

It runs until Ctrl-C or SIGTERM; SIGUSR1 breaks all current connections.
"""

import signal
from dataclasses import dataclass

from common.command import run_command
from common.config import parse
from common.link.contexts import parse_context
from common.link.emulate import Link, Route


@dataclass(frozen=True)
class LinkConfig:
    """Relay the data port and the control port of a server over an emulated link."""

    link: str = "wifi"
    """iot, 4g, 4g+, wifi, 5g, wired, or UP/DOWN/RTT[/JITTER] in Mbit/s and ms, such as 20/20/40/5."""
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
    """Relay until SIGINT or SIGTERM."""
    context = parse_context(config.link)
    routes = (
        Route((config.listen_ip, config.listen_port), (config.ip, config.port)),
        Route((config.listen_ip, config.listen_hyperport), (config.ip, config.hyperport)),
    )
    # Blocked before the link starts its threads, which inherit this: signals then wait for sigwait() below.
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with Link(context, routes, config.seed) as link:
        for (host, port), route in zip(link.addresses, routes, strict=True):
            print(f"{host}:{port} -> {route.target[0]}:{route.target[1]}, {context}", flush=True)
        while signal.sigwait(signals) == signal.SIGUSR1:
            link.sever()


def main() -> None:
    """Parse the flags and run the link."""
    run_link(parse(LinkConfig))


if __name__ == "__main__":
    run_command(main, until_stopped=True)
