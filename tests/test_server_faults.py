"""Whatever one client does, it hears why, and the server goes on serving the others."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from common.errors import ConnectionLost, PeerError, SessionGone
from common.training.loop import StepDone
from common.training.prepare import largest_body, make_head
from common.training.recorder import Recorder
from common.training.remote import OpenSession, open_session
from common.training.serve import Server
from common.wire.framing import pack
from common.wire.messages import PROTOCOL, Activations, Attach, Open, Ping, Pong
from common.wire.structs import Payload, TensorSpec
from common.wire.tcp import Connection, connect
from discriminative.options import DEFAULT_UP, ClientOptions
from discriminative.recipe import Plan, plan_job
from discriminative.train import train_with_server
from tests.serving import serving


@pytest.fixture
def plan(images: str, tmp_path: Path) -> Plan:
    return plan_job(options(images, tmp_path))


def options(images: str, tmp_path: Path, server: Server | None = None, **more: Any) -> ClientOptions:
    ports = {"port": server.port, "hyperport": server.hyperport} if server else {}
    shared = {"dataset": images, "run_dir": tmp_path / "runs", "epochs": 1, "batch_size": 20, "stale_it": 1}
    return ClientOptions(**{**shared, "model": "resnet20", **ports, **more})


def trains(server: Server, images: str, tmp_path: Path) -> bool:
    """Whether the server still carries an honest job through."""
    chosen = options(images, tmp_path, server)
    return bool(train_with_server(plan_job(chosen), chosen).summary["steps"] == 2)


def opened(server: Server, plan: Plan, **changes: Any) -> OpenSession:
    job = msgspec.structs.replace(plan.job, **changes)
    return open_session("127.0.0.1", server.port, server.hyperport, job, largest_body(plan.prepared.graph, plan.job))


GARBAGE = (b"GET / HTTP/1.1\r\nHost: tandem\r\n\r\n", bytes(100), b"\xff" * 4096)


@pytest.mark.slow
@pytest.mark.parametrize("garbage", GARBAGE, ids=["http", "zeros", "ones"])
@pytest.mark.parametrize("port", ["port", "hyperport"])
def test_garbage_is_answered_with_a_typed_error(
    server: Server, images: str, tmp_path: Path, port: str, garbage: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", getattr(server, port)), timeout=5) as sock:
        sock.sendall(garbage)
        with Connection(sock.dup()) as connection, pytest.raises(PeerError, match="does not speak Tandem's protocol"):
            connection.receive()
    assert trains(server, images, tmp_path)


def test_a_frame_cut_short_ends_that_connection_only(server: Server) -> None:
    frame = b"".join(pack(Ping(1)))
    with socket.create_connection(("127.0.0.1", server.hyperport), timeout=5) as sock:
        sock.sendall(frame[:-3])
    with connect("127.0.0.1", server.hyperport, what="--hyperport") as control:
        control.send(Ping(1))
        with pytest.raises(PeerError, match="'ping' where 'open' was due"):
            control.receive()


def test_an_oversized_frame_is_refused_by_its_announcement(server: Server) -> None:
    parts = pack(Attach("x", b"", 0), [bytes(1 << 20)])
    with connect("127.0.0.1", server.port, what="--port") as connection:
        connection.send_parts(parts[:1])  # only the prefix and the header: the body is never sent
        with pytest.raises(PeerError, match="announces a body of 1048576 bytes; the limit here is 0"):
            connection.receive()


REFUSALS = [
    ({"model": "resnet999"}, "no model is called 'resnet999'"),
    ({"workload": "nonsense"}, "no workload 'nonsense'"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"batch_size": 1 << 40}, "batch_size is"),
    ({"input_shape": (3, 1 << 30, 1 << 30)}, "elements of a sample"),
    ({"cut": 10_000}, "there is no cut 10000"),
    ({"cut": -1}, "there is no cut -1"),
    ({"compress_up": "int7"}, "unknown stage 'int7'"),
    ({"optim": "adamw"}, "unknown --optim 'adamw'"),
    ({"graph_digest": "0" * 32}, "another model here"),
    ({"num_classes": 11}, "another model here"),
    ({"seed": -1}, "seed is -1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "reason"), REFUSALS)
def test_a_job_that_cannot_be_done_is_refused_in_words(
    server: Server, plan: Plan, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PeerError, match="refused the job") as refusal:
        opened(server, plan, **changes)
    assert reason in str(refusal.value)


@pytest.mark.slow
def test_another_protocol_version_is_refused_with_both_numbers(server: Server, plan: Plan) -> None:
    with connect("127.0.0.1", server.hyperport, what="--hyperport") as control:
        control.send(Open(PROTOCOL + 1, "tandem 99", plan.job, 8))
        with pytest.raises(PeerError, match=f"protocol {PROTOCOL + 1}.*this server {PROTOCOL}"):
            control.receive()


@pytest.mark.slow
def test_a_pinned_server_refuses_another_job(tmp_path: Path, plan: Plan) -> None:
    with (
        serving(tmp_path, "vgg19") as pinned,
        pytest.raises(PeerError, match="started with --model VGG19, the client with resnet20"),
    ):
        opened(pinned, plan)


def test_an_unknown_session_cannot_be_attached_to(server: Server) -> None:
    with connect("127.0.0.1", server.port, what="--port") as connection:
        connection.send(Attach("deadbeef", b"", 0))
        with pytest.raises(SessionGone, match="no session 'deadbeef'"):
            connection.receive()


def uploads(plan: Plan) -> tuple[Activations, list[memoryview]]:
    """An honest upload of the plan's first step."""
    head = make_head(plan.prepared, plan.job, device="cpu", taylor=False)
    batch = next(plan.train.epoch(0))
    outgoing = head.encode(head.forward(0, 0, (batch.inputs,), batch.labels, batch.ids))
    assert isinstance(outgoing.message, Activations)
    return outgoing.message, [memoryview(each) for each in outgoing.buffers]


def _wrong_step(m: Activations) -> Activations:
    return msgspec.structs.replace(m, step=7)


def _wrong_shape(m: Activations) -> Activations:
    spec = msgspec.structs.replace(m.payload.tensors[0], shape=(20, 1 << 40))
    return msgspec.structs.replace(m, payload=Payload(m.payload.codec, (spec,)))


def _wrong_codec(m: Activations) -> Activations:
    return msgspec.structs.replace(m, payload=msgspec.structs.replace(m.payload, codec="none"))


def _too_many_labels(m: Activations) -> Activations:
    return msgspec.structs.replace(m, labels=TensorSpec("uint8", (21,)))


def _float_labels(m: Activations) -> Activations:
    return msgspec.structs.replace(m, labels=TensorSpec("float32", (20,)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_wrong_step, "step 7 came where step 0 was due"),
        (_wrong_shape, "at this cut they have"),
        (_wrong_codec, f"'{DEFAULT_UP}' was agreed"),
        (_too_many_labels, "1 to 20"),
        (_float_labels, "labels of shape"),
    ],
)
def test_activations_that_do_not_fit_are_refused(
    server: Server, plan: Plan, spoil: Callable[[Activations], Activations], reason: str
) -> None:
    session = opened(server, plan)
    message, buffers = uploads(plan)
    with session.control, session.training:
        session.training.send(spoil(message), buffers)
        with pytest.raises(PeerError) as verdict:
            session.training.receive()
    assert reason in str(verdict.value)


@pytest.mark.slow
def test_labels_beyond_the_classes_fail_that_session_only(
    server: Server, plan: Plan, images: str, tmp_path: Path
) -> None:
    session = opened(server, plan)
    message, buffers = uploads(plan)
    buffers[-2] = memoryview(bytes([200]) * 20)
    with session.control, session.training:
        session.training.send(message, buffers)
        with pytest.raises(PeerError, match="labels from 200 to 200 came; the job has 10 classes"):
            session.training.receive()
    assert trains(server, images, tmp_path)


@pytest.mark.slow
def test_a_client_that_dies_in_the_midst_of_a_frame_hurts_nobody(
    server: Server, plan: Plan, images: str, tmp_path: Path
) -> None:
    session = opened(server, plan)
    message, buffers = uploads(plan)
    parts = pack(message, buffers)
    session.training.send_parts([*parts[:1], bytes(parts[1])[:100]])
    session.training.close()
    session.control.close()
    assert trains(server, images, tmp_path)


@pytest.mark.slow
def test_two_sessions_at_once_do_not_disturb_each_other(
    server: Server, plan: Plan, images: str, tmp_path: Path
) -> None:
    waiting = opened(server, plan)
    with waiting.control, waiting.training:
        assert trains(server, images, tmp_path)
        message, buffers = uploads(plan)
        waiting.training.send(message, buffers)
        assert waiting.training.receive().frame.message.step == 0  # type: ignore[union-attr]


@pytest.mark.slow
def test_sessions_that_open_while_another_trains_change_nothing(
    server: Server, plan: Plan, images: str, tmp_path: Path
) -> None:
    """Building and tracing a model use torch's generator and its hook into nn.Module, which all threads share."""
    alone = options(images, tmp_path, server, epochs=6, dropout=0.2, compress="none")
    expected = train_with_server(plan_job(alone), alone).summary
    over = threading.Event()

    def keep_opening() -> list[tuple[str, ...]]:
        notes = []
        while not over.is_set():
            session = opened(server, plan)
            session.training.close()
            session.control.close()
            notes.append(session.notes)
        return notes

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(keep_opening) for _ in range(2)]
        summary = train_with_server(plan_job(alone), alone).summary
        over.set()
        notes = [note for other in others for note in other.result(60)]
    assert summary["parameters_digest"] == expected["parameters_digest"]
    assert notes
    assert not any(notes), "the seed gave other first weights"


@pytest.mark.slow
def test_a_model_too_large_is_refused_before_it_is_built(server: Server, plan: Plan) -> None:
    with pytest.raises(PeerError, match="num_classes is 70000; it must be 1 to 65536"):
        opened(server, plan, num_classes=70_000)


@pytest.mark.slow
def test_a_random_state_that_is_none_is_a_protocol_error(server: Server, plan: Plan) -> None:
    session = opened(server, plan)
    message, buffers = uploads(plan)
    state = torch.get_rng_state()
    with session.control, session.training:
        zeros = memoryview(bytes(len(state)))
        session.training.send(msgspec.structs.replace(message, random_state=True), [*buffers, zeros])
        with pytest.raises(PeerError, match="random state that is none"):
            session.training.receive()


@pytest.mark.slow
def test_swapped_ports_are_told(server: Server, images: str, tmp_path: Path) -> None:
    swapped = options(images, tmp_path, port=server.hyperport, hyperport=server.port)
    with pytest.raises(PeerError, match="are --port and --hyperport swapped"):
        train_with_server(plan_job(swapped), swapped)


def test_a_server_that_cannot_accept_for_a_while_accepts_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of file descriptors, say."""
    real, failures = socket.socket.accept, [OSError(24, "Too many open files")]

    def accept(self: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    for _ in range(2):  # the first wakes the call that waits since before; the next one fails, and is repeated
        with connect("127.0.0.1", server.port, what="--port") as connection:
            connection.send(Attach("nobody", b"", 0))
            with pytest.raises(SessionGone, match="no session 'nobody'"):
                connection.receive()
    assert not failures


@pytest.mark.slow
def test_an_edge_that_never_attaches_is_forgotten(server: Server, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.training.serve._ATTACH_TIMEOUT_S", 0.2)
    with connect("127.0.0.1", server.hyperport, what="--hyperport") as control:
        control.send(Open(PROTOCOL, "test", plan.job, 8))
        name = control.receive().frame.message.session  # type: ignore[union-attr]
        with pytest.raises(PeerError, match=r"sent nothing for 0\.2 s"):
            control.receive()
    with connect("127.0.0.1", server.port, what="--port") as training:
        training.send(Attach(name, b"", 0))
        with pytest.raises(SessionGone, match=f"no session '{name}'"):
            training.receive()


@pytest.mark.slow
def test_a_client_that_loses_its_server_says_so_and_stops(
    server: Server, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(images, tmp_path, server, epochs=10_000, reconnect_s=0.5)
    job = plan_job(chosen)
    begun, record = threading.Event(), Recorder.step

    def step(recorder: Recorder, done: StepDone) -> None:
        record(recorder, done)
        if done.step == 20:
            begun.set()

    def close() -> None:
        begun.wait(60)
        server.close()

    monkeypatch.setattr(Recorder, "step", step)
    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(ConnectionLost, match=r"away for 0\.5 s \(--reconnect_s\); the run stops.* go on with --resume"):
        train_with_server(job, chosen)
    closer.join()


@pytest.mark.slow
def test_the_control_port_answers_pings_while_it_trains(server: Server, plan: Plan) -> None:
    session = opened(server, plan)
    with session.control, session.training:
        session.control.send(Ping(42))
        pong = session.control.receive().frame.message
    assert isinstance(pong, Pong)
    assert pong.number == 42
    assert 0 < session.rtt_s < 1
