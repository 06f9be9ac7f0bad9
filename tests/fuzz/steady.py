"""The server that is fuzzed, and the honest session beside its hostile ones."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.training.acceptor import Admission
from common.training.exchange import Answer
from common.training.remote import OpenSession
from common.training.serve import Server
from common.wire.admission import ServerSecurity
from common.wire.messages import Finish
from tests.fuzz.small import RECIPE, WORKLOAD, Setting, carried, upload

HOST = "127.0.0.1"
HANDSHAKE_S = 1.0
PATIENCE_S = 12.0  # for a server that must have ended a connection; more than all of its own limits together


@contextlib.contextmanager
def serving(run_dir: Path, security: ServerSecurity | None) -> Iterator[Server]:
    """A server that drops the silent within a second or two, and not within minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.training.hosted.IDLE_TIMEOUT_S", 1.0)
        patch.setattr("common.training.serve._ATTACH_TIMEOUT_S", 1.0)
        server = Server(
            {WORKLOAD: RECIPE},
            pinned={},
            ip=HOST,
            port=0,
            hyperport=0,
            device="cpu",
            queue_limit=2,
            run_dir=run_dir,
            security=security,
            admission=Admission(connections=64, handshake_s=HANDSHAKE_S),
            max_sessions=8,
            away_s=0.5,
        )
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.close()
            thread.join(PATIENCE_S)
            if thread.is_alive():
                raise AssertionError("the server does not end")


class Steady:
    """An honest session in a thread of its own, which must learn just what it would learn in one process."""

    def __init__(self, session: OpenSession, setting: Setting) -> None:
        self._session = session
        self._head, self._twin, self._tail = setting.head(), setting.head(), setting.tail()
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self.steps = 0

    def __enter__(self) -> "Steady":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with self._session.control, self._session.training:
            self.check()
            self._session.training.send(Finish())
            self._session.training.receive()

    def check(self) -> None:
        """Raises AssertionError where the session has come to harm."""
        if self._failure is not None:
            raise AssertionError(f"an honest session came to harm in step {self.steps}") from self._failure

    def _run(self) -> None:
        try:
            while not self._over.wait(0.02):
                self._step()
        except BaseException as error:  # noqa: BLE001 - handed on by `check`
            self._failure = error

    def _step(self) -> None:
        """Train a step here and there; the answers must be equal, bit for bit."""
        sent = upload(self._head, self.steps)
        self._session.training.send(sent.message, sent.buffers)
        answer = self._head.decode(self._session.training.receive().frame)
        expected = self._twin.decode(
            carried(self._tail.encode(self._tail.step(self._tail.decode(carried(upload(self._twin, self.steps))))))
        )
        self._head.backward(answer)
        self._twin.backward(expected)
        if _content(answer) != _content(expected):
            raise AssertionError("the answer is another one than in one process")
        self.steps += 1


def _content(answer: Answer) -> tuple[float, int, list[object]]:
    return answer.loss, answer.correct, [each.tolist() for each in answer.gradients]
