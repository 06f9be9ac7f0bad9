"""What a server gives a session at most: places, bytes of a step, time behind its end, words in its log."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import ConnectionLost, PeerError
from common.training.remote import OpenSession, open_session
from common.training.serve import Server
from common.wire.messages import PROTOCOL, Bye, Finish, Finished, Open, Opened
from common.wire.tcp import connect, expect
from tests.fuzz.small import RECIPE, WORKLOAD, Setting, settings
from tests.serving import serving
from tests.sockets import HOST, TIMEOUT_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def setting() -> Setting:
    return settings(("none",))[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, max_sessions=2, recipes={WORKLOAD: RECIPE}, away_s=0.05) as server:
        yield server


def opened(server: Server, setting: Setting, **changes: Any) -> OpenSession:
    job = msgspec.structs.replace(setting.job, **changes)
    return open_session(HOST, server.port, server.hyperport, job, setting.most_bytes)


def test_sessions_too_many_are_refused_until_one_has_ended(server: Server, setting: Setting) -> None:
    for _ in range(3):  # no place is lost, however a session ends
        first, second = opened(server, setting), opened(server, setting)
        with pytest.raises(PeerError, match="refused the job: this server has 2 sessions, its most; try again later"):
            opened(server, setting)
        with first.training, first.control:
            first.training.send(Finish())
            expect(first.training.receive().frame, Finished)
            first.training.send(Bye())
        with second.training, second.control:
            pass
        moment = threading.Event()
        while server._places._value < 2:
            moment.wait(0.005)  # the server hears a moment later that they are gone


def test_a_job_that_is_refused_takes_no_place(server: Server, setting: Setting) -> None:
    for _ in range(5):
        with pytest.raises(PeerError, match="another model here"):
            opened(server, setting, graph_digest="0" * 32)
    first, second = opened(server, setting), opened(server, setting)
    for each in (first, second):
        each.training.close()
        each.control.close()


def test_a_step_that_would_take_too_many_bytes(
    server: Server, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.training.opening.MAX_BODY_BYTES", setting.most_bytes - 1)
    words = f"a step of this job may take {setting.most_bytes} bytes on the wire, this server takes"
    with pytest.raises(PeerError, match=words):
        opened(server, setting)


def test_the_control_connection_ends_with_its_session(
    server: Server, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.training.serve._ATTACH_TIMEOUT_S", 0.1)
    session = opened(server, setting)
    session.control.set_timeout(TIMEOUT_S)
    with session.control, session.training as training:
        training.send(Finish())
        training.receive()
        training.send(Bye())
        with pytest.raises(ConnectionLost, match="closed the connection"):
            session.control.receive()


def test_no_word_of_a_client_steers_the_terminal_of_a_log(
    server: Server, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hostile = "\x1b[2J\x1b]0;x\x07\nan honest line\r"
    with connect(HOST, server.hyperport, what="--hyperport") as control:
        job = msgspec.structs.replace(setting.job, cut_name=hostile)
        control.send(Open(PROTOCOL, hostile, job, 8))
        expect(control.receive().frame, Opened)
    with connect(HOST, server.hyperport, what="--hyperport") as control:
        control.send(Open(PROTOCOL + 1, hostile, setting.job, 8))
        with pytest.raises(PeerError) as caught:
            control.receive()
    lines = [str(caught.value), *(each.getMessage() for each in caplog.records)]
    assert len(lines) >= 3
    assert all(each.isprintable() for line in lines for each in line)


def test_a_shape_of_samples_that_the_model_does_not_take(tmp_path: Path, setting: Setting) -> None:
    shape = (3, 2000, 2000)
    job = {"workload": "discriminative", "model": "resnet20", "num_classes": 10, "input_shape": shape}
    with (
        serving(tmp_path) as server,
        pytest.raises(PeerError, match=r"shape \(3, 32, 32\) here, at the client \(3, 2000, 2000\)"),
    ):
        opened(server, setting, **job)
