"""Talk to a run while it trains: ``python -m common.training.control RUN --cut layer3``.

The edge's program listens on this machine only, on a port that it writes into its run folder together with a key; who
cannot read the folder cannot steer the run.
"""

import contextlib
import hmac
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec
import tyro

from common.command import run_command
from common.config import parse
from common.errors import TandemError, UsageError
from common.training.moving import Change

FILE = "control.json"
_LINE_BYTES = 4096
_ASK_S = 5.0  # for one line
_ANSWER_S = 600.0  # a step of a slow edge may be long


class Address(msgspec.Struct, frozen=True):
    """What a run's folder says."""

    port: int
    key: str


class Request(msgspec.Struct, frozen=True):
    """What a user asks."""

    key: str
    change: Change


class Reply(msgspec.Struct, frozen=True):
    """What came of it."""

    done: bool
    text: str


@dataclass
class _Asked:
    change: Change
    reply: Reply | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class Control:
    """Requests for the thread that trains, which carries them out between two steps."""

    def __init__(self) -> None:
        self._asked: deque[_Asked] = deque()

    def waiting(self) -> bool:
        """Whether something is asked."""
        return bool(self._asked)

    def ask(self, change: Change, seconds: float) -> Reply:
        """Ask for another plan, and wait until it is done."""
        asked = _Asked(change)
        self._asked.append(asked)
        asked.answered.wait(seconds)
        return asked.reply or Reply(False, "the run has not come to it; it may still do it later")

    def answer(self, do: Callable[[Change], str]) -> None:
        """Carry out what is asked.

        Raises:
            TandemError: the run goes back to a checkpoint, or ends; who asked is told that it was not done.
        """
        while self._asked:
            asked = self._asked.popleft()
            try:
                asked.reply = Reply(True, do(asked.change))
            except UsageError as error:
                asked.reply = Reply(False, str(error))
            except TandemError as error:
                asked.reply = Reply(False, f"it was not done: {error}; ask again when the run goes on")
                raise
            finally:
                asked.answered.set()


class ControlPort:
    """Takes requests from this machine while a run trains; a context manager.

    Args:
        control: where they go.
        folder: of the run, into which it writes how to reach it.
    """

    def __init__(self, control: Control, folder: Path) -> None:
        self._control = control
        self._path = folder / FILE
        self._key = secrets.token_hex(16)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def __enter__(self) -> "ControlPort":
        address = Address(self._listener.getsockname()[1], self._key)
        self._path.unlink(missing_ok=True)
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(address))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                asking, _ = self._listener.accept()
            except OSError:  # closed: the run is over
                return
            with asking, contextlib.suppress(OSError):
                asking.settimeout(_ASK_S)
                reply = self._reply(_read_line(asking))
                asking.sendall(msgspec.json.encode(reply) + b"\n")

    def _reply(self, line: bytes) -> Reply:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.MsgspecError:
            return Reply(False, "this is no request")
        if not hmac.compare_digest(request.key.encode(), self._key.encode()):
            return Reply(False, "the key is another run's")
        return self._control.ask(request.change, _ANSWER_S)


def ask_run(folder: Path, change: Change) -> str:
    """Ask the run of a folder for another plan; what it did, in words.

    Raises:
        UsageError: there is no such run, or it does not run.
        TandemError: it could not, or would not.
    """
    try:
        address = msgspec.json.decode((folder / FILE).read_bytes(), type=Address)
    except OSError:
        raise UsageError(
            f"{folder} is no run that trains: it has no {FILE}; name the folder that the client printed at its start"
        ) from None
    except msgspec.MsgspecError as error:
        raise UsageError(f"{folder / FILE} cannot be read: {error}") from None
    try:
        with socket.create_connection(("127.0.0.1", address.port), timeout=_ASK_S) as asking:
            asking.sendall(msgspec.json.encode(Request(address.key, change)) + b"\n")
            asking.settimeout(_ANSWER_S + _ASK_S)
            reply = msgspec.json.decode(_read_line(asking), type=Reply)
    except (OSError, msgspec.MsgspecError) as error:
        raise TandemError(f"the run of {folder} does not answer ({error}); does it still train?") from None
    if not reply.done:
        raise TandemError(reply.text)
    return reply.text


def _read_line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES and (some := sock.recv(_LINE_BYTES)):
        line += some
    return line


@dataclass(frozen=True)
class ControlOptions:
    """Talk to a run while it trains."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, as its client printed it."""
    cut: str | None = None
    """Cut the model here from now on: the name of a module, or the index of a cut point."""
    compress_up: str | None = None
    """Codec of the activations from now on."""
    compress_down: str | None = None
    """Codec of the gradients from now on."""
    stale_it: int | None = None
    """Staleness bound from now on."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Ask, and print what was done."""
    options = parse(ControlOptions)
    change = Change(options.cut, options.compress_up, options.compress_down, options.stale_it)
    if change == Change():
        raise UsageError("say what is to change: --cut, --compress_up, --compress_down, --stale_it")
    print(ask_run(options.run, change))


if __name__ == "__main__":
    run_command(main)
