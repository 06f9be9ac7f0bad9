"""A server, a client and the link between them as processes on this machine, each side on its own core."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from common.errors import TandemError


class Testbed:
    """Starts a server and an emulated link; `train` runs clients against them, one after the other.

    Args:
        link: name or numbers of the link (`common.link.contexts`).
        server_flags: further flags of the server.
        client_flags: further flags of all clients.
        link_flags: further flags of the link, such as traces.
        run_dir: where the run folders go.
        quiet: keep the client's messages in ``client.log`` instead of showing them.
        pin: give the edge the first core and the cloud the second, and each one thread; where there are two.
        workload: whose server and client.
    """

    def __init__(
        self,
        link: str,
        run_dir: Path,
        *,
        server_flags: Sequence[str] = (),
        client_flags: Sequence[str] = (),
        link_flags: Sequence[str] = (),
        quiet: bool = False,
        pin: bool = True,
        workload: str = "discriminative",
    ) -> None:
        self._link = link
        self._run_dir = run_dir
        self._server_flags, self._link_flags = server_flags, link_flags
        self._client_flags = client_flags
        self._quiet = quiet
        self._workload = workload
        self._cores = _two_cores() if pin else None
        self._stack = ExitStack()

    def __enter__(self) -> "Testbed":
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            log = stack.enter_context((self._run_dir / "server.log").open("w"))
            threads = ["--threads", "1"] if self._cores else []
            flags = ["--port", "0", "--hyperport", "0", "--run_dir", str(self._run_dir.resolve())]
            server = self._start(stack, log, 1, f"{self._workload}.server", *flags, *threads, *self._server_flags)
            port, hyperport = _await(server, f"{self._workload}.server", r"port (\d+), hyperport (\d+)").groups()
            route = ["--ip", "127.0.0.1", "--port", port, "--hyperport", hyperport]
            listen = ["--listen_port", "0", "--listen_hyperport", "0"]
            flags = ["--link", self._link, *route, *listen, *self._link_flags]
            link = self._start(stack, log, None, "common.link", *flags)
            self.ports = [_await(link, "common.link", r"^\S+:(\d+) -> ").group(1) for _ in range(2)]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def train(self, flags: Sequence[str]) -> tuple[dict[str, Any], Path]:
        """Run one client to its end; its summary, and its run folder.

        Raises:
            TandemError: the client failed.
        """
        port, hyperport = self.ports
        threads = ["--threads", "1"] if self._cores else []
        where = ["--port", port, "--hyperport", hyperport, "--run_dir", str(self._run_dir.resolve())]
        with ExitStack() as stack:
            log = stack.enter_context((self._run_dir / "client.log").open("w")) if self._quiet else None
            client = self._start(
                stack, log, 0, f"{self._workload}.client", *where, *threads, *self._client_flags, *flags
            )
            output, _ = client.communicate()
        if client.returncode:
            reason = _last_line(self._run_dir / "client.log") if self._quiet else "see above"
            raise TandemError(f"the client ended with exit code {client.returncode}: {reason}")
        folder = Path(output.rpartition("records: ")[2].strip())
        return json.loads((folder / "summary.json").read_text()), folder

    def _start(
        self, stack: ExitStack, log: IO[str] | None, core: int | None, module: str, *flags: str
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=_root(),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        stack.callback(_end, process)
        if self._cores and core is not None:
            os.sched_setaffinity(process.pid, {self._cores[core]})
        return process


def _two_cores() -> tuple[int, int] | None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (cores[0], cores[1]) if len(cores) > 1 else None


def _root() -> Path:
    return Path(__file__).resolve().parent.parent


def _await(process: "subprocess.Popen[str]", module: str, pattern: str) -> re.Match[str]:
    """The first line of a process that matches."""
    output: IO[str] | None = process.stdout
    for line in output or ():
        if match := re.search(pattern, line):
            return match
    raise TandemError(f"{module} did not start; see server.log beside the run folders")


def _last_line(path: Path) -> str:
    lines = path.read_text().splitlines()
    return lines[-1] if lines else "it said nothing"


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
