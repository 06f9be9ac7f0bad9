"""What a codec gives back: within the promised error, exactly where it says so, and in no more bytes than before."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.codec import Context, make_codec
from common.errors import CodecError

LOSSY = ["fp16", "bf16", "int8", "int8/c", "int8/c/s", "int8/b"]
SPECS = [value + lossless for value in ["none", *LOSSY] for lossless in ["", "+zstd", "+lz4", "+auto"]]
SPECS += ["none+shuffle+zstd", "fp16+shuffle+lz4"]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
BELOW_ZERO, AROUND_ZERO, ABOVE_ZERO = (-3.0, -1.0), (-1.0, 2.0), (1.0, 5.0)

checked = settings(derandomize=True, deadline=None, max_examples=25)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def round_trip(spec: str, tensor: Tensor) -> Tensor:
    """Encode on one side, decode on the other."""
    (decoded,) = make_codec(spec).decode(make_codec(spec).encode([tensor], step=0))
    assert decoded.is_contiguous()
    assert decoded.shape == tensor.shape
    assert decoded.dtype == tensor.dtype
    return decoded


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def tensors(draw: st.DrawFn, dtype: torch.dtype = torch.float32, exponents: tuple[int, int] = (-12, 12)) -> Tensor:
    """Uniform values of any range, on either side of zero or on both."""
    low, high = draw(st.sampled_from([BELOW_ZERO, AROUND_ZERO, ABOVE_ZERO, (0.0, 1.0), (-1.0, 0.0)]))
    shape = draw(st.lists(st.integers(1, 9), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 32)))
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low
    kept = torch.rand(shape, generator=generator) > draw(st.sampled_from([0.0, 0.5]))
    return (uniform * kept * 10.0 ** draw(st.integers(*exponents))).to(dtype)


def int8_scale(tensor: Tensor) -> float:
    return (tensor.max().item() - tensor.min().item()) / 255


@checked
@given(tensors())
def test_int8_is_off_by_half_a_scale_at_most(tensor: Tensor) -> None:
    error = (round_trip("int8", tensor) - tensor).abs().max().item()

    rounding = 1e-6 * tensor.abs().max().item()
    assert error <= int8_scale(tensor) / 2 + rounding


@checked
@given(tensors(exponents=(-30, 30)))
def test_bf16_has_eight_digits_whatever_the_magnitude(tensor: Tensor) -> None:
    error = (round_trip("bf16", tensor) - tensor).abs()

    assert (error <= tensor.abs() * 2.0**-8).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("low", [-300.0, -1.0, 0.0, 0.75, 1000.0])
def test_int8_keeps_its_bound_in_other_dtypes(dtype: torch.dtype, low: float) -> None:
    tensor = (torch.rand(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + low).to(dtype)

    error = (round_trip("int8", tensor).double() - tensor.double()).abs().max().item()

    rounding = torch.finfo(dtype).eps / 2 * tensor.double().abs().max().item()
    assert error <= int8_scale(tensor.double()) / 2 + rounding


@checked
@given(tensors())
def test_zeros_stay_zero(tensor: Tensor) -> None:
    tensor.view(-1)[::2] = 0

    for spec in LOSSY:
        assert round_trip(spec, tensor)[tensor == 0].eq(0).all()


def test_zeros_of_a_range_too_narrow_for_single_precision_stay_zero() -> None:
    tensor = torch.tensor([-1e-42, 0.0, 1e-42])

    assert round_trip("int8", tensor)[1] == 0


def test_a_tensor_that_starts_at_zero_uses_all_256_codes() -> None:
    encoded = make_codec("int8").encode([torch.linspace(0, 3, 10_000)], step=0)

    assert len(set(bytes(encoded.buffers[0]))) == 256


def test_the_ends_of_a_range_that_starts_at_zero_are_exact() -> None:
    decoded = round_trip("int8", torch.tensor([0.0, 1.0, 255.0]))

    assert decoded.tolist() == [0.0, 1.0, 255.0]


@pytest.mark.slow
def test_eight_bits_of_a_relu_feature_are_within_six_per_mille() -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415  costs a second

    torch.manual_seed(0)
    images = torch.tensor(load_digits().images[:256], dtype=torch.float32).unsqueeze(1) / 16
    layers = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32)]
    with torch.no_grad():
        feature = nn.Sequential(*layers, nn.ReLU())(images)

    for spec, bound in (("int8", 0.006), ("int8/c", 0.005)):
        error = (round_trip(spec, feature) - feature).norm() / feature.norm()

        assert 0 < error <= bound


@checked
@given(tensors(exponents=(-30, 30)))
def test_fp16_has_eleven_digits_whatever_the_magnitude(tensor: Tensor) -> None:
    error = (round_trip("fp16", tensor) - tensor).abs()

    near = tensor.abs() >= tensor.abs().max() * 2.0**-28
    assert (error <= tensor.abs() * 2.0**-11)[near].all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_fp16_holds_what_its_dtype_holds(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    for value in (limits.max, limits.tiny, 1e-9 if dtype is not torch.float16 else 1e-7):
        tensor = torch.tensor([value, -value, 0.0], dtype=dtype)

        assert torch.allclose(round_trip("fp16", tensor), tensor, rtol=2.0**-11, atol=0)


def test_int8_gives_no_infinity_for_the_largest_numbers() -> None:
    for dtype in FLOATS:
        largest = torch.finfo(dtype).max
        tensor = torch.tensor([-largest, 0.0, largest], dtype=dtype)

        assert torch.allclose(round_trip("int8", tensor), tensor, rtol=1 / 127, atol=0)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [0.0, 1.5, -3.0])
def test_a_constant_is_exact(spec: str, dtype: torch.dtype, value: float) -> None:
    tensor = torch.full((3, 5), value, dtype=dtype)

    assert torch.equal(round_trip(spec, tensor), tensor)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (), (1,), (2, 3, 4, 5)])
def test_any_shape_comes_back(spec: str, shape: tuple[int, ...]) -> None:
    tensor = random(*shape)

    assert torch.allclose(round_trip(spec, tensor), tensor, rtol=0, atol=0.03)


@pytest.mark.parametrize("spec", SPECS)
def test_strides_do_not_matter(spec: str) -> None:
    image = random(2, 6, 4, 4)
    for strided in (image.transpose(1, 2), image[:, ::2], image.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(round_trip(spec, strided), round_trip(spec, strided.contiguous()))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_and_bools_are_exact(spec: str, dtype: torch.dtype) -> None:
    tensor = (random(50, 3) * 40).to(dtype)

    assert torch.equal(round_trip(spec, tensor), tensor)


@pytest.mark.parametrize("spec", ["none", "none+zstd", "none+lz4"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_none_is_exact_and_carries_what_is_not_a_number(spec: str, dtype: torch.dtype) -> None:
    tensor = torch.tensor([1 / 3, math.nan, math.inf, -math.inf, -0.0], dtype=dtype).repeat(9)

    assert torch.allclose(round_trip(spec, tensor), tensor, rtol=0, atol=0, equal_nan=True)
    assert make_codec(spec).is_exact


@pytest.mark.parametrize("spec", LOSSY)
@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [-math.inf], [-math.inf, math.inf]])
def test_what_is_not_finite_names_step_and_tensor(spec: str, bad: list[float]) -> None:
    with pytest.raises(CodecError, match="step 41: tensor 1 has NaN or infinite values"):
        make_codec(spec).encode([torch.zeros(2), torch.tensor([0.5, *bad])], step=41)
    assert not make_codec(spec).is_exact


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_a_dtype_that_cannot_cross_is_told(dtype: torch.dtype) -> None:
    with pytest.raises(CodecError, match="known are float32"):
        make_codec("int8").encode([torch.ones(2).to(dtype)], step=0)


def test_several_tensors_keep_their_order() -> None:
    sent = [random(2, 3), torch.arange(5), random(4).half()]

    encoded = make_codec("none").encode(sent, step=0)

    assert all(torch.equal(a, b) for a, b in zip(make_codec("none").decode(encoded), sent, strict=True))
    assert encoded.nbytes == sum(each.nbytes for each in sent)


def test_the_gradient_history_stays_behind() -> None:
    sent = random(4).requires_grad_()

    assert not round_trip("none", sent).requires_grad


@pytest.mark.parametrize(
    ("spec", "part"), [("none", 1.0), ("fp16", 0.5), ("bf16", 0.5), ("int8", 0.25), ("int4", 0.125), ("int2", 0.0625)]
)
def test_value_stages_shrink_by_their_width(spec: str, part: float) -> None:
    tensor = random(1024)

    assert make_codec(spec).encode([tensor], step=0).nbytes == part * tensor.nbytes


@pytest.mark.parametrize("spec", SPECS)
def test_encoding_twice_gives_the_same_bytes(spec: str) -> None:
    tensor, codec = random(3, 1000).relu(), make_codec(spec)

    first, second = codec.encode([tensor], step=1), codec.encode([tensor.clone()], step=1)

    assert first.spec == second.spec
    assert list(map(bytes, first.buffers)) == list(map(bytes, second.buffers))


@pytest.mark.parametrize("spec", LOSSY)
def test_blocks_of_a_large_tensor_are_coded_as_a_whole(spec: str) -> None:
    tensor = random((1 << 17) + 3)

    whole, strided = tensor, torch.stack([tensor, tensor], dim=1)[:, 0]  # only what is contiguous goes in blocks

    assert torch.equal(round_trip(spec, whole), round_trip(spec, strided))


@pytest.mark.parametrize("shape", [(1,), (0,), (1, 1), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_one_element_or_none_with_any_stride(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    strided = torch.ones(64).to(dtype).as_strided(shape, [7] * len(shape))

    assert torch.equal(round_trip("none", strided), strided)


@pytest.mark.parametrize("spec", [*LOSSY, "int2", "topk:0.1+int2", "delta+int2", "ef+int2"])
@pytest.mark.parametrize("value", [math.pi, math.nan, 1e300])
def test_a_number_is_exact(spec: str, value: float) -> None:
    number = torch.tensor(value, dtype=torch.float64)

    assert torch.allclose(round_trip(spec, number), number, rtol=0, atol=0, equal_nan=True)


def test_what_is_decoded_begins_where_torch_memory_begins() -> None:
    for lossless in ("zstd", "lz4", "auto"):
        assert round_trip(f"none+{lossless}", torch.zeros(1001)).data_ptr() % 64 == 0


@pytest.mark.parametrize("spec", ["none", "int8/c", "topk:0.2+int8", "delta+int4", "ef+int4", "int4/s"])
def test_the_sender_knows_what_the_receiver_has(spec: str) -> None:
    sent, at = [random(8, 3, 6), torch.arange(4), torch.tensor(0.5)], Context(3, ids=torch.arange(8))

    encoded, known = make_codec(spec).encode_and_decode(sent, at)

    assert all(map(torch.equal, known, make_codec(spec).decode(encoded, at)))
