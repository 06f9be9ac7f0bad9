"""Sparse tensors: which elements travel, and in how few bytes their places do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.codec import Context, make_codec
from common.codec.positions import bitmap_bytes, pack_positions, unpack_positions
from common.errors import CodecError

checked = settings(derandomize=True, deadline=None, max_examples=60)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def round_trip(spec: str, tensor: Tensor, at: Context | int = 0) -> Tensor:
    (decoded,) = make_codec(spec).decode(make_codec(spec).encode([tensor], at), at)
    return decoded


@checked
@given(st.integers(1, 5000), st.floats(0, 1), st.integers(0, 1 << 32))
def test_positions_come_back_in_no_more_than_a_bitmap(elements: int, part: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    positions = np.flatnonzero(rng.random(elements) < part**3)

    packed = pack_positions(positions, elements)

    assert len(packed) <= bitmap_bytes(elements)
    assert np.array_equal(unpack_positions(packed, len(positions), elements), positions)


def test_rare_positions_take_a_byte_each() -> None:
    positions = np.array([0, 3, 258, 259, 800, 1055])

    packed = pack_positions(positions, 10_000)

    assert packed.tolist() == [0, 2, 254, 0, 255, 255, 30, 254]


@pytest.mark.parametrize(
    ("packed", "count"),
    [([0, 255], 1), ([0, 0], 1), ([0], 2), ([200], 1), ([], 1), ([255] * 25, 3), ([1] * 25, 24)],
    ids=["no end", "one more", "one less", "beyond the end", "nothing", "a full map", "a map of more"],
)
def test_positions_that_nobody_packs(packed: list[int], count: int) -> None:
    with pytest.raises(ValueError, match="positions below 200"):
        unpack_positions(np.array(packed, np.uint8), count, 200)


@checked
@given(st.integers(1, 400), st.sampled_from([0.01, 0.1, 0.25, 0.5]), st.integers(0, 1 << 32))
def test_topk_sends_the_largest_exactly(elements: int, ratio: float, seed: int) -> None:
    tensor = random(elements, seed=seed)

    decoded = round_trip(f"topk:{ratio}", tensor)

    kept = decoded != 0
    assert kept.sum() == max(1, round(ratio * elements))
    assert torch.equal(decoded[kept], tensor[kept])
    assert kept.all() or tensor[kept].abs().min() >= tensor[~kept].abs().max()


def test_of_equal_elements_the_first_travel() -> None:
    assert round_trip("topk:0.3", torch.tensor([1.0, 2, 1, 1, 1, 1, 1, 1, 1, 1])).tolist() == [1, 2, 1, *[0] * 7]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", ["topk:0.2", "topk:0.2+int8/c"])
def test_any_dtype(spec: str, dtype: torch.dtype) -> None:
    tensor = random(200, 5).to(dtype)

    decoded = round_trip(spec, tensor)

    assert decoded.dtype == dtype
    assert (decoded != 0).sum() == 200
    assert torch.allclose(decoded[decoded != 0], tensor[decoded != 0], rtol=0, atol=0.02)


def test_randtopk_sends_some_of_the_others_in_training() -> None:
    tensor = random(100_000)
    largest = round_trip("topk:0.1", tensor) != 0

    trained = round_trip("randtopk:0.1", tensor, Context(3)) != 0
    again = round_trip("randtopk:0.1", tensor, Context(3)) != 0
    other = round_trip("randtopk:0.1", tensor, Context(4)) != 0
    evaluated = round_trip("randtopk:0.1", tensor, Context(3, training=False)) != 0

    assert trained.sum() == 10_000
    assert 900 < (trained & ~largest).sum() < 1100
    assert torch.equal(trained, again)
    assert not torch.equal(trained, other)
    assert torch.equal(evaluated, largest)


def test_a_scale_for_each_channel_of_what_travels() -> None:
    tensor = random(64, 4, 8, 8) * torch.tensor([1e-3, 1, 1e3, 1e6])[:, None, None]

    decoded = round_trip("topk:0.5+int4/c", tensor)

    kept = (decoded != 0) & (tensor.abs() > tensor.abs().amax((0, 2, 3), keepdim=True) / 10)
    assert ((decoded - tensor).abs() <= tensor.abs().amax((0, 2, 3), keepdim=True) / 14)[kept].all()


@pytest.mark.parametrize(("spec", "ratio"), [("topk:0.1+int8", 17.7), ("topk:0.01+int8", 150), ("topk:0.1+int4", 22)])
def test_sparse_tensors_are_small(spec: str, ratio: float) -> None:
    tensor = random(100_000)

    assert tensor.nbytes / make_codec(spec).encode([tensor], 0).nbytes > ratio


def test_what_is_not_finite_names_step_and_tensor() -> None:
    with pytest.raises(CodecError, match="step 5: tensor 0 has NaN or infinite values"):
        make_codec("topk:0.1").encode([torch.tensor([1.0, float("nan")] * 20)], 5)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (1,), (1, 1, 1)])
def test_tiny_tensors(shape: tuple[int, ...]) -> None:
    assert round_trip("topk:0.01", torch.ones(shape)).equal(torch.ones(shape))
