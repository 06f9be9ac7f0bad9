"""A head at the cloud and a peer that does not keep to the job: that session ends in words, and no other one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from common.errors import PeerError, ProtocolError
from common.training.directions import make_cloud_half, make_edge_half
from common.training.edge_tail import EdgeTail
from common.training.exchange import Outgoing
from common.training.prepare import largest_of_any_cut
from common.training.remote import OpenSession, open_session
from common.training.serve import Server
from common.wire.framing import Frame, FrameReader, feed, pack
from common.wire.messages import Activations, Applied, Gradients, Inputs, OutputGradients
from common.wire.structs import Payload, TensorSpec
from common.wire.tcp import Connection
from discriminative.recipe import Plan
from generative.options import BaseOptions
from generative.recipe import objective, plan_job
from tests.generating import here, remote, same, served, values

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_job(BaseOptions(**values(tmp_path_factory.mktemp("plan"), stale_it=1)))


def opened(server: Server, plan: Plan) -> OpenSession:
    most = largest_of_any_cut(plan.prepared.graph, plan.job)
    return open_session("127.0.0.1", server.port, server.hyperport, plan.job, most)


def edge(plan: Plan) -> EdgeTail:
    half = make_edge_half(plan.prepared, plan.job, device="cpu", objective=objective)
    assert isinstance(half, EdgeTail)
    return half


def asked(half: EdgeTail, plan: Plan, step: int = 0) -> tuple[Inputs, list[Any]]:
    """An honest question."""
    batch = list(plan.train.epoch(0))[step]
    outgoing = half.encode(half.forward(step, 0, (batch.inputs,), batch.labels, batch.ids))
    assert isinstance(outgoing.message, Inputs)
    return outgoing.message, list(outgoing.buffers)


def with_number(number: float) -> Callable[[Inputs, list[Any]], tuple[Inputs, list[Any]]]:
    def spoil(message: Inputs, buffers: list[Any]) -> tuple[Inputs, list[Any]]:
        poses = np.frombuffer(buffers[0], np.float32).reshape(message.tensors[0].shape).copy()
        poses[3, 0] = number
        return message, [poses.tobytes(), buffers[1]]

    return spoil


def with_tensors(*tensors: TensorSpec) -> Callable[[Inputs, list[Any]], tuple[Inputs, list[Any]]]:
    return lambda message, buffers: (msgspec.structs.replace(message, tensors=tensors), buffers)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_number(8), "chair number 8 came; the model knows 8, counted from 0"),
        (with_number(-1), "chair number -1 came"),
        (with_number(float("nan")), "chair number nan came"),
        (with_number(float("inf")), "chair number inf came"),
        (with_tensors(TensorSpec("float32", (58, 18))), "inputs came as float32 of shape"),
        (with_tensors(TensorSpec("float32", (58, 1 << 60))), "inputs came as float32 of shape"),
        (with_tensors(TensorSpec("int64", (58, 17))), "inputs came as int64"),
        (with_tensors(), "inputs came as nothing"),
        (lambda m, b: (m, [b[0][:-4], b[1]]), "inputs of 58 samples came with"),
        (lambda m, b: (m, [*b, b[0]]), "came with 3 buffers"),
        (lambda m, b: (m, b[:1]), "came with 1 buffers"),
        (lambda m, b: (msgspec.structs.replace(m, ids=TensorSpec("float32", (58,))), b), "ids that are no numbers"),
        (lambda m, b: (msgspec.structs.replace(m, ids=TensorSpec("uint8", (1 << 40,))), b), "batches have 1 to 58"),
        (lambda m, b: (msgspec.structs.replace(m, ahead=2.5), b), "weights of 2.5 steps on are asked for; K is 1"),
        (lambda m, b: (msgspec.structs.replace(m, ahead=-1), b), "weights of -1 steps on"),
        (lambda m, b: (msgspec.structs.replace(m, ahead=float("nan")), b), "weights of nan steps on"),
        (lambda m, b: (msgspec.structs.replace(m, step=2), b), "inputs of step 2 came where step 0 was due"),
    ],
)
def test_inputs_that_do_not_fit(
    tmp_path_factory: pytest.TempPathFactory,
    plan: Plan,
    spoil: Callable[[Inputs, list[Any]], tuple[Inputs, list[Any]]],
    reason: str,
) -> None:
    with served(tmp_path_factory.mktemp("server")) as server:
        session = opened(server, plan)
        message, buffers = spoil(*asked(edge(plan), plan))
        with session.control, session.training:
            session.training.send(message, [memoryview(each) for each in buffers])
            with pytest.raises(PeerError) as verdict:
                session.training.receive()
    assert reason in str(verdict.value)


def answered(session: OpenSession, half: EdgeTail, plan: Plan) -> Outgoing:
    """An honest answer to the activations of the first step."""
    message, buffers = asked(half, plan)
    session.training.send(message, [memoryview(each) for each in buffers])
    return half.encode(half.complete(half.decode(session.training.receive().frame)))


def replaced(**changes: Any) -> Callable[[Gradients], Gradients]:
    return lambda message: msgspec.structs.replace(message, **changes)


def of_shape(*shape: int) -> Callable[[Gradients], Gradients]:
    return replaced(payload=Payload("none", (TensorSpec("float32", shape),)))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (of_shape(58, 3), "step 0 has other activations"),
        (of_shape(1 << 40, 1 << 20), "step 0 has other activations"),
        (replaced(payload=Payload("none", ())), "step 0 has other activations"),
        (replaced(step=1), "an answer for step 1"),
        (replaced(training=False), "an answer for step 0"),
        (replaced(count=3), "an answer for step 0 (3 samples)"),
        (replaced(rate=2.0), "times 2.0"),
        (replaced(rate=float("nan")), "times nan"),
        (lambda m: OutputGradients(0, 0.0, 0, m.payload), "gradients of the outputs of step 0 came"),
    ],
)
def test_gradients_that_do_not_fit(tmp_path: Path, plan: Plan, spoil: Callable[[Gradients], Any], reason: str) -> None:
    with served(tmp_path / "server") as server:
        session, half = opened(server, plan), edge(plan)
        with session.control, session.training:
            outgoing = answered(session, half, plan)
            assert isinstance(outgoing.message, Gradients)
            session.training.send(spoil(outgoing.message), outgoing.buffers)
            with pytest.raises(PeerError) as verdict:
                session.training.receive()
        assert reason in str(verdict.value)


def test_an_honest_run_beside_a_dishonest_one(tmp_path: Path, plan: Plan) -> None:
    expected = here(tmp_path / "base", epochs=1)
    with served(tmp_path / "server") as server:
        session = opened(server, plan)
        message, buffers = with_number(99)(*asked(edge(plan), plan))
        with session.control, session.training:
            session.training.send(message, [memoryview(each) for each in buffers])
            with pytest.raises(PeerError):
                session.training.receive()
        same(remote(server, tmp_path / "client", epochs=1), expected)


def all_activations(connection: Connection, count: int) -> None:
    for _ in range(count):
        assert isinstance(connection.receive().frame.message, Activations)


def test_no_more_batches_are_held_than_were_agreed(tmp_path: Path, plan: Plan) -> None:
    with served(tmp_path / "server") as server:
        session, half = opened(server, plan), edge(plan)
        with session.control, session.training:
            for step in range(3):
                message, buffers = asked(half, plan, step)
                session.training.send(message, [memoryview(each) for each in buffers])
            with pytest.raises(PeerError, match="step 2 came with 2 under way; K is 1"):
                all_activations(session.training, 3)  # its words may overtake what it would have sent before


def carried(outgoing: Outgoing) -> Frame:
    reader = FrameReader()
    (frame,) = [frame for part in pack(outgoing.message, outgoing.buffers) for frame in feed(reader, part)]
    return frame


def test_an_edge_takes_no_other_activations_than_it_asked_for(plan: Plan) -> None:
    half = edge(plan)
    cloud: Any = make_cloud_half(plan.prepared, plan.job, device="cpu", objective=objective)
    batch = next(plan.train.epoch(0))
    outgoing = half.encode(half.forward(0, 0, (batch.inputs,), batch.labels, batch.ids))
    honest = cloud.encode(cloud.forward(cloud.decode(carried(outgoing))))
    for changes, reason in (
        ({"step": 1}, "an answer for step 1"),
        ({"epoch": 1}, "of other samples than were asked for"),
        ({"training": False}, "an answer for step 0"),
    ):
        fresh = edge(plan)
        fresh.forward(0, 0, (batch.inputs,), batch.labels, batch.ids)
        wrong = Outgoing(msgspec.structs.replace(honest.message, **changes), honest.buffers)
        with pytest.raises(ProtocolError, match=reason):
            fresh.decode(carried(wrong))
    ids = [*honest.buffers]
    ids[2] = bytes(len(ids[2]))
    with pytest.raises(ProtocolError, match="of other samples than were asked for"):
        half.decode(carried(Outgoing(honest.message, tuple(ids))))
    with pytest.raises(ProtocolError, match="Applied where activations were due"):
        edge(plan).decode(carried(Outgoing(Applied(0))))
