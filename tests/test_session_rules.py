"""What a session refuses: jobs that cannot be, steps and answers out of order."""

import math
from typing import Any

import msgspec
import pytest

from common.errors import JobRefused, ProtocolError
from common.training.session import AnswerOrder, StepOrder, check_open
from common.wire.messages import PROTOCOL, Activations, Gradients, Open
from common.wire.structs import Job, Payload, TensorSpec

JOB = Job(
    workload="discriminative",
    model="resnet20",
    num_classes=10,
    input_shape=(3, 32, 32),
    cut=4,
    cut_name="features.0",
    splits=12,
    split_index=1,
    graph_digest="",
    weights_digest="",
    batch_size=32,
    epochs=1,
    optim="resnet",
    learning_rate=0.0,
    seed=0,
    stale_it=4,
    dropout=0.0,
    compress_up="int8",
    compress_down="fp16",
)


def request(protocol: int = PROTOCOL, **changes: Any) -> Open:
    return Open(protocol, "tandem 0.1", msgspec.structs.replace(JOB, **changes), 8)


def activations(step: int, epoch: int = 0, *, training: bool = True) -> Activations:
    nothing = TensorSpec("uint8", (1,))
    return Activations(step, epoch, training, Payload("none", ()), nothing, nothing, ())


def gradients(step: int, count: int = 8) -> Gradients:
    return Gradients(step, True, 0.5, 3, count, Payload("none", ()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 1 << 16, "epochs": 0, "stale_it": 0, "seed": (1 << 63) - 1},
        {"input_shape": (1, 4096, 4096), "num_classes": 1, "dropout": 0.5, "learning_rate": 0.1},
    ],
)
def test_a_job_within_the_limits_is_taken(changes: dict[str, Any]) -> None:
    check_open(request(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be 1 to 65536"),
        ({"batch_size": 65537}, "batch_size is 65537"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 1 << 40}, "num_classes is"),
        ({"input_shape": (3, 0, 32)}, "elements of a sample is 0"),
        ({"input_shape": (-3, -32)}, "elements of a sample is 0"),
        ({"input_shape": (1 << 40, 1 << 40)}, "elements of a sample is"),
        ({"stale_it": -1}, "stale_it is -1"),
        ({"stale_it": 1 << 20}, "stale_it is"),
        ({"epochs": -1}, "epochs is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1 << 63}, "seed is"),
        ({"learning_rate": -0.1}, "learning_rate is -0.1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"dropout": 1.5}, "dropout is 1.5; it must be 0 to 1"),
        ({"dropout": math.nan}, "dropout is nan"),
    ],
)
def test_a_job_beyond_the_limits_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobRefused) as caught:
        check_open(request(**changes))

    assert message in str(caught.value)


def test_another_protocol_is_refused_with_both_numbers_and_the_way_out() -> None:
    with pytest.raises(JobRefused, match=rf"protocol 99 \(software tandem 0.1\), this server {PROTOCOL}; install"):
        check_open(request(protocol=99, batch_size=-5))


def test_steps_come_one_after_the_other() -> None:
    order = StepOrder()

    for step, epoch in [(0, 0), (1, 0), (2, 1), (3, 5)]:
        order.activations(activations(step, epoch))

    with pytest.raises(ProtocolError, match="epoch 4 came after epoch 5"):
        order.activations(activations(4, 4))


@pytest.mark.parametrize("step", [-1, 0, 1, 3])
def test_a_step_that_is_not_due(step: int) -> None:
    order = StepOrder()
    order.activations(activations(0))
    order.activations(activations(1))

    with pytest.raises(ProtocolError, match=f"step {step} came where step 2 was due"):
        order.activations(activations(step))


def test_a_refused_step_does_not_count() -> None:
    order = StepOrder()
    with pytest.raises(ProtocolError):
        order.activations(activations(1))

    order.activations(activations(0))


def test_evaluation_has_numbers_of_its_own() -> None:
    order = StepOrder()
    order.activations(activations(0, epoch=3))

    for step in (7, 0, 0):
        order.activations(activations(step, epoch=0, training=False))
    order.activations(activations(1, epoch=3))

    with pytest.raises(ProtocolError, match="step 3 came where step 2 was due"):
        order.activations(activations(3, epoch=3))


def test_answers_come_oldest_first() -> None:
    order = AnswerOrder()
    for step, count in [(0, 8), (1, 8), (2, 3)]:
        order.sent(step, count)

    order.gradients(gradients(0))
    order.gradients(gradients(1))
    order.gradients(gradients(2, count=3))

    with pytest.raises(ProtocolError, match=r"step 2 \(3 samples\) came; due was nothing"):
        order.gradients(gradients(2, count=3))


@pytest.mark.parametrize(("step", "count"), [(1, 8), (0, 7), (5, 8)])
def test_an_answer_that_is_not_due(step: int, count: int) -> None:
    order = AnswerOrder()
    order.sent(0, 8)
    order.sent(1, 8)

    with pytest.raises(ProtocolError, match=rf"step {step} \({count} samples\) came; due was step 0 \(8 samples\)"):
        order.gradients(gradients(step, count))
