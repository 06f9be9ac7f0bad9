"""Grids of 8, 4 and 2 bits: their bounds per tensor and per channel, their packing, and rounding by chance."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.codec import Context, make_codec
from common.codec.bits import pack_bits, packed_bytes, padded, unpack_bits
from common.codec.channels import BLOCK, WHOLE, Channels, channels_of
from common.partition.layout import pack, unpack

BITS = {"int8": 8, "int4": 4, "int2": 2}
checked = settings(derandomize=True, deadline=None, max_examples=30)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def round_trip(spec: str, tensor: Tensor, at: Context | int = 0) -> Tensor:
    (decoded,) = make_codec(spec).decode(make_codec(spec).encode([tensor], at), at)
    return decoded


def through_layout(spec: str, tensor: Tensor) -> Tensor:
    """As a head sends it and a tail has it: packed into a storage, in the order of its memory."""
    storages, views = pack([tensor])
    at = Context(views=views)
    (decoded,) = unpack(make_codec(spec).decode(make_codec(spec).encode(storages, at), at), views)
    return decoded


def uneven(shape: tuple[int, ...], axis: int, seed: int) -> Tensor:
    """Channels of different ranges: around zero, at zero, above it, and constant ones."""
    generator = torch.Generator().manual_seed(seed)
    sides = [1 if i != axis else n for i, n in enumerate(shape)]
    width = 10.0 ** torch.empty(sides).uniform_(-6, 6, generator=generator)
    shift = torch.empty(sides).uniform_(-2, 2, generator=generator).round()
    values = (torch.rand(shape, generator=generator) + shift) * width
    values.select(axis, 0).fill_(3.25)
    return values


@checked
@given(st.sampled_from([8, 4, 2]), st.integers(0, 70), st.integers(0, 1 << 32))
def test_packed_codes_come_back(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(0, 1 << bits, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    full = torch.cat([codes, codes.new_zeros(padded(count, bits) - count)])

    packed = pack_bits(full, bits)

    assert len(packed) == packed_bytes(count, bits) == math.ceil(count * bits / 8)
    assert torch.equal(unpack_bits(packed, bits), full)


def test_the_first_code_of_a_byte_is_in_its_lowest_bits() -> None:
    assert pack_bits(torch.tensor([1, 15, 0, 8], dtype=torch.uint8), 4).tolist() == [0xF1, 0x80]
    assert pack_bits(torch.tensor([1, 2, 3, 0, 3, 3, 3, 3], dtype=torch.uint8), 2).tolist() == [0b00111001, 0xFF]


@checked
@given(st.sampled_from(list(BITS)), st.integers(0, 1 << 32), st.booleans())
def test_one_grid_is_off_by_half_a_scale_at_most(stage: str, seed: int, stochastic: bool) -> None:
    tensor = uneven((3, 5, 7), 1, seed)
    scale = (tensor.max() - tensor.min()).item() / ((1 << BITS[stage]) - 1)

    error = (round_trip(stage + "/s" * stochastic, tensor) - tensor).abs().max().item()

    assert error <= scale * (1 if stochastic else 0.5) + 1e-6 * tensor.abs().max().item()


@checked
@given(
    st.sampled_from(list(BITS)),
    st.sampled_from([((8, 5, 6, 7), 1), ((4, 9, 6), 2), ((64, 3), 1), ((16, 3, 2, 2, 2), 1)]),
    st.integers(0, 1 << 32),
    st.booleans(),
)
def test_each_channel_is_off_by_half_its_own_scale(
    stage: str, form: tuple[tuple[int, ...], int], seed: int, stochastic: bool
) -> None:
    shape, axis = form
    tensor = uneven(shape, axis, seed)
    rest = [i for i in range(len(shape)) if i != axis]
    scale = (tensor.amax(rest) - tensor.amin(rest)) / ((1 << BITS[stage]) - 1)

    decoded = round_trip(stage + "/c" + "/s" * stochastic, tensor)

    error = (decoded - tensor).abs().amax(rest)
    assert (error <= scale * (1 if stochastic else 0.5) + 1e-6 * tensor.abs().amax(rest)).all()
    assert decoded.select(axis, 0).eq(3.25).all()


@checked
@given(st.sampled_from(list(BITS)), st.integers(1, 5 * BLOCK), st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_each_block_is_off_by_half_its_own_scale(
    stage: str, count: int, seed: int, stochastic: bool, sparse: bool
) -> None:
    tensor = uneven((BLOCK, 5), 1, seed).t().reshape(-1)[:count]
    sent = round_trip("topk:0.5", tensor) if sparse else tensor
    travel = sent.nonzero().view(-1) if sparse else torch.arange(count)

    decoded = round_trip("topk:0.5+" * sparse + stage + "/b" + "/s" * stochastic, tensor)

    for values, came in zip(torch.split(sent[travel], BLOCK), torch.split(decoded[travel], BLOCK), strict=True):
        scale = (values.max() - values.min()) / ((1 << BITS[stage]) - 1)
        assert ((came - values).abs() <= scale * (1 if stochastic else 0.5) + 1e-6 * values.abs().max()).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3000])
def test_blocks_of_any_number_and_dtype(dtype: torch.dtype, count: int) -> None:
    tensor = random(count).to(dtype)
    encoded = make_codec("int4/b").encode([tensor], 0)

    (decoded,) = make_codec("int4/b").decode(encoded)

    assert encoded.nbytes == math.ceil(count / 2) + 2 * max(dtype.itemsize, 4) * math.ceil(count / BLOCK)
    assert decoded.dtype == dtype
    assert torch.allclose(decoded, tensor, rtol=0, atol=0.3)


@pytest.mark.parametrize("spec", ["int4/c", "int4/c/s", "topk:0.5+int8/c", "delta+int4/c"])
@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        lambda x: x[:, :4],
        lambda x: x.transpose(2, 3),
    ],
    ids=["channels last", "another order", "with gaps", "transposed"],
)
def test_channels_are_found_in_any_order_of_memory(spec: str, form: object) -> None:
    tensor = form(uneven((8, 6, 5, 4), 1, 0))  # type: ignore[operator]
    decoded = through_layout(spec, tensor)
    scale = (tensor.amax((0, 2, 3)) - tensor.amin((0, 2, 3))) / 15
    error = (decoded - tensor).abs()

    error = error * decoded.ne(0) if "topk" in spec else error
    assert (error.amax((0, 2, 3)) <= scale * (1 if "/s" in spec else 0.51) + 1e-6 * tensor.abs().amax((0, 2, 3))).all()
    assert decoded.stride() == tensor.stride()


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((32, 16, 8, 8), Channels(16, 64)),
        ((32, 16, 4, 4, 4), Channels(16, 64)),
        ((32, 7, 24), Channels(24, 1)),
        ((32, 24), Channels(24, 1)),
        ((4096,), WHOLE),
        ((), WHOLE),
        ((8, 24), WHOLE),  # eight numbers are not worth a scale
        ((0, 24), WHOLE),
        ((32, 0, 4, 4), WHOLE),
    ],
)
def test_a_channel_is_dimension_1_of_four_and_the_last_of_fewer(shape: tuple[int, ...], channels: Channels) -> None:
    assert channels_of(shape) == channels


def test_tensors_of_different_channels_in_one_memory_share_one_scale() -> None:
    whole = random(8, 8, 6, 6)
    storages, views = pack([whole, whole[:, 2:5]], [[0, 1]])

    assert channels_of(storages[0].shape, views) == WHOLE
    assert channels_of(storages[0].shape, views[:1]) == Channels(8, 36)


@pytest.mark.parametrize("spec", ["int4", "int2"])
def test_a_tensor_that_starts_at_zero_uses_all_codes(spec: str) -> None:
    decoded = round_trip(spec, torch.linspace(0, 3, 10_000))

    assert len(set(decoded.tolist())) == 1 << BITS[spec]
    assert (decoded.min().item(), decoded.max().item()) == (0, 3)


@pytest.mark.parametrize(
    "spec", [f"{stage}{marks}" for stage in BITS for marks in ("", "/c", "/b", "/s", "/c/s", "/b/s")]
)
def test_zeros_stay_zero(spec: str) -> None:
    for tensor in (random(64, 8), random(64, 8).relu(), -random(64, 8).relu(), random(64, 8) * 1e-38):
        tensor[::2] = 0
        assert round_trip(spec, tensor)[::2].eq(0).all()


@pytest.mark.parametrize("spec", ["int8/c", "int4/c/s", "int2/c", "int8/b", "int2/b"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_largest_numbers_stay_numbers(spec: str, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    tensor = torch.tensor([[-largest, largest], [largest, largest], [0, 1], [largest / 2, 0]], dtype=dtype).repeat(8, 1)

    decoded = round_trip(spec, tensor)

    assert decoded.isfinite().all()
    assert decoded.dtype == dtype
    widest = 2 / ((1 << BITS[spec[:4]]) - 1)
    assert ((decoded.double() / largest - tensor.double() / largest).abs() <= widest).all()


def test_chance_rounds_to_the_value_in_the_mean() -> None:
    values = torch.cat([torch.linspace(0, 3, 31).repeat_interleave(4000), torch.tensor([0.0, 3.0])])

    means = round_trip("int2/s", values)[:-2].view(31, -1).mean(1)

    assert (means - torch.linspace(0, 3, 31)).abs().max() < 0.03  # four deviations of the mean are 0.0316


def test_chance_is_of_seed_direction_step_and_tensor() -> None:
    values = [random(500), random(500)]

    def sent(seed: int = 1, step: int = 0, *, up: bool = True, training: bool = True) -> list[bytes]:
        codec = make_codec("int4/s", "up" if up else "down", seed=seed)
        return list(map(bytes, codec.encode(values, Context(step, training)).buffers))

    assert sent() == sent()
    codec = make_codec("int4/s", "up", seed=1)
    assert [list(map(bytes, codec.encode(values, 0).buffers)) for _ in range(2)] == [sent(), sent()]
    others = [sent(seed=2), sent(step=1), sent(up=False), sent(training=False)]
    assert all(each[i] != sent()[i] for each in others for i in range(2))
    same = make_codec("int4/s").encode([values[0], values[0]], 0)
    assert bytes(same.buffers[0]) != bytes(same.buffers[1])


def test_blocks_of_a_large_tensor_are_coded_as_a_whole() -> None:
    tensor = random(3, 4, 300, 300)  # a channel is a block, and a sample three

    parts = [round_trip("int4/c", tensor[:, i : i + 1]) for i in range(4)]

    assert torch.equal(round_trip("int4/c", tensor), torch.cat(parts, 1))


def test_scales_take_eight_bytes_a_channel() -> None:
    tensor = random(32, 16, 8, 8)

    assert make_codec("int4/c").encode([tensor], 0).nbytes == tensor.numel() // 2 + 8 * 16
    assert make_codec("int4/c").encode([tensor.double()], 0).nbytes == tensor.numel() // 2 + 16 * 16
