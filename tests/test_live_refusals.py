"""The tail takes what crosses its cut, for any number of samples, and nothing else."""

from collections.abc import Callable

import msgspec
import pytest
import torch

from common.errors import ProtocolError
from common.training import Tail
from common.wire.framing import Frame
from common.wire.messages import Activations
from common.wire.structs import Payload, TensorSpec, View
from tests.live import BATCH_SIZE, CASES, Case, batch, carried, split


def upload(case: Case, count: int = BATCH_SIZE) -> tuple[Tail, Activations, tuple[memoryview, ...]]:
    """A tail, and an honest message to it."""
    head, tail = split(case)
    inputs, labels = batch(0)
    frame = carried(head.encode(head.forward(0, 0, (inputs[:count],), labels[:count], torch.arange(count))))
    assert isinstance(frame.message, Activations)
    return tail, frame.message, frame.buffers


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_any_number_of_samples_fits(case: Case, count: int) -> None:
    tail, message, buffers = upload(case, count)

    gradients = tail.step(tail.decode(Frame(message, buffers, 0))).gradients

    assert len(gradients) == sum(case.wanted)


def _of(dtype: str, *shape: int) -> Callable[[Activations], Activations]:
    payload = Payload("none", (TensorSpec(dtype, shape),))
    return lambda message: msgspec.structs.replace(message, payload=payload)


def _viewed(*views: View) -> Callable[[Activations], Activations]:
    return lambda message: msgspec.structs.replace(message, views=views)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            _of("float64", 6, 8, 8, 8),
            r"activation 0 came as float64 of shape \(6, 8, 8, 8\) for 6 samples; at this cut",
        ),
        (_of("complex64", 6, 8, 8, 8), "complex64"),
        (_of("float32", 6, 8, 8), "at this cut"),
        (_of("float32", 6, 8, 8, 9), "at this cut"),
        (_of("float32", 5, 8, 8, 8), "at this cut"),
        (_of("float32", -6, 8, 8, 8), "at this cut"),
        (_of("float32", 6, 24, 24, 24), "activations of 331776 bytes came; a batch has 262144 at most"),
        (_viewed(View(0, 0, (6, 8, 8, 8), (0, 0, 0, 1)), View(0, 0, (), ())), "2 activations came; 1 cross"),
        (_viewed(View(0, 0, (6, 24, 24, 24), (0, 0, 0, 0))), "activations of 331776 bytes came"),
        (_viewed(View(0, 8, (6, 8, 8, 8), (1024, 64, 8, 1 << 40))), "for a storage of 3072 elements"),
        (_viewed(View(1, 0, (6, 8, 8, 8), (512, 64, 8, 1))), "came with 1 storages"),
        (lambda message: msgspec.structs.replace(message, gradients_wanted=()), "0 marks"),
    ],
)
def test_activations_of_another_cut_are_refused(spoil: Callable[[Activations], Activations], reason: str) -> None:
    tail, message, buffers = upload(CASES["dense"])

    with pytest.raises(ProtocolError, match=reason):
        tail.decode(Frame(spoil(message), buffers, 0))


def test_a_storage_larger_than_all_activations_is_refused() -> None:
    tail, message, buffers = upload(CASES["dense"])
    payload = Payload("none", (TensorSpec("float32", (1 << 20,)),))
    spoiled = msgspec.structs.replace(message, payload=payload, views=(View(0, 0, (6, 8, 8, 8), (512, 64, 8, 1)),))

    with pytest.raises(ProtocolError, match="activations of 4194304 bytes came"):
        tail.decode(Frame(spoiled, buffers, 0))


def test_a_whole_number_has_no_gradient() -> None:
    tail, message, buffers = upload(CASES["a number"])

    with pytest.raises(ProtocolError, match="the gradient of a tensor of int64 is wanted"):
        tail.decode(Frame(msgspec.structs.replace(message, gradients_wanted=(True, True)), buffers, 0))


def test_sizes_that_depend_on_the_data_are_the_peers_to_say() -> None:
    _, message, buffers = upload(CASES["dense"])
    others = [((2, 8, 5, 5), torch.float32)]

    with pytest.raises(ProtocolError, match="at this cut"):
        split(CASES["dense"], others)[1].decode(Frame(message, buffers, 0))
    _, tail = split(CASES["dense"], others, data_dependent=True)
    assert tail.decode(Frame(message, buffers, 0)).tensors[0].shape == (6, 8, 8, 8)


def test_gradients_of_other_activations_are_refused() -> None:
    head, tail = split(CASES["dense"])
    inputs, labels = batch(0)
    outgoing = head.encode(head.forward(0, 0, (inputs,), labels, torch.arange(BATCH_SIZE)))
    frame = carried(tail.encode(tail.step(tail.decode(carried(outgoing)))))
    message = msgspec.structs.replace(frame.message, payload=Payload("none", (TensorSpec("float16", (6, 8, 8, 8)),)))

    with pytest.raises(ProtocolError, match="step 0 has other activations"):
        head.decode(Frame(message, frame.buffers, 0))
