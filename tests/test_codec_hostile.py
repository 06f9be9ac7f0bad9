"""What a hostile peer announces or sends ends in CodecError, and before much memory is taken."""

import math
import tracemalloc

import lz4.block
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codec import Context, Encoded, make_codec
from common.errors import CodecError, UsageError
from common.wire.structs import Payload, TensorSpec

LOSSLESS = ["", "+zstd", "+lz4"]
ONE_MEGABYTE = bytes(1 << 20)


def decode(
    codec: str, shape: tuple[int, ...], data: bytes, *, dtype: str = "uint8", params: tuple[float, ...] = ()
) -> torch.Tensor:
    (tensor,) = make_codec(codec).decode(Encoded(Payload(codec, (TensorSpec(dtype, shape, params),)), (data,)))
    return tensor


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_of_unknown_size(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(data) + compressor.flush()


def lz4_block(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    return packed


@pytest.mark.parametrize("lossless", LOSSLESS)
@pytest.mark.parametrize(
    "shape",
    [(-1,), (-3, -4), (13,), (1 << 33,), (1 << 62,), (1 << 80,), (0, 1 << 80), (0, 1 << 50, 1 << 50), (1,) * 100],
)
def test_a_shape_that_the_bytes_do_not_fill(lossless: str, shape: tuple[int, ...]) -> None:
    for data in (b"twelve bytes", lz4_block(ONE_MEGABYTE), zstd(ONE_MEGABYTE)):
        with pytest.raises(CodecError):
            decode(f"none{lossless}", shape, data)


@pytest.mark.parametrize("name", ["float33", "", "complex64", "object", "torch.float32", "__class__"])
def test_a_dtype_that_does_not_exist(name: str) -> None:
    with pytest.raises(CodecError, match="unknown dtype"):
        decode("none", (1,), b"1234", dtype=name)


def test_another_codec_than_agreed() -> None:
    encoded = Encoded(Payload("int8", ()), ())

    with pytest.raises(CodecError, match="encoded with 'int8'; 'fp16' was agreed"):
        make_codec("fp16").decode(encoded)


def test_more_tensors_than_buffers() -> None:
    encoded = Encoded(Payload("none", (TensorSpec("uint8", (1,)),) * 2), (b"1",))

    with pytest.raises(CodecError, match="2 tensors announced, 1 buffers came"):
        make_codec("none").decode(encoded)


GOOD = {"none": (), "fp16": (4.0,), "int8": (0.5, 3.0)}
WIDTH = {"none": 4, "fp16": 2, "int8": 1}


@pytest.mark.parametrize("codec", GOOD)
def test_the_parameters_of_an_encoder_are_taken(codec: str) -> None:
    assert decode(codec, (2,), bytes(2 * WIDTH[codec]), dtype="float32", params=GOOD[codec]).isfinite().all()


@pytest.mark.parametrize("codec", GOOD)
def test_parameters_of_another_number(codec: str) -> None:
    wrong = [GOOD[codec] + (1.0,), (1.0,) * 40] + ([GOOD[codec][:-1], ()] if GOOD[codec] else [])
    for params in wrong:
        with pytest.raises(CodecError, match="cannot be decoded with parameters"):
            decode(codec, (2,), bytes(2 * WIDTH[codec]), dtype="float32", params=params)


@pytest.mark.parametrize("codec", ["fp16", "int8"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_parameters_that_are_no_numbers_of_the_dtype(codec: str, bad: float) -> None:
    for position in range(len(GOOD[codec])):
        params = (*GOOD[codec][:position], bad, *GOOD[codec][position + 1 :])
        with pytest.raises(CodecError, match="cannot be decoded with parameters"):
            decode(codec, (2,), bytes(2 * WIDTH[codec]), dtype="float32", params=params)


@pytest.mark.parametrize("scale", [0.0, -4.0, 3.0])
def test_a_scale_of_fp16_that_is_no_power_of_two(scale: float) -> None:
    with pytest.raises(CodecError):
        decode("fp16", (2,), bytes(4), dtype="float32", params=(scale,))


@pytest.mark.parametrize("lossless", ["+zstd", "+lz4"])
def test_a_buffer_that_is_cut_or_extended(lossless: str) -> None:
    content = bytes(range(100)) * 50
    packed = zstd(content) if lossless == "+zstd" else lz4_block(content)

    assert bytes(decode(f"none{lossless}", (5000,), packed).tolist()) == content
    for damaged in (packed[:-1], packed[: len(packed) // 2], packed[:3], b"", packed + b"\0", packed + packed):
        with pytest.raises(CodecError):
            decode(f"none{lossless}", (5000,), damaged)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.sampled_from(["+zstd", "+lz4"]), st.binary(max_size=200), st.integers(0, 3000))
def test_any_bytes_decode_to_their_size_or_to_an_error(lossless: str, data: bytes, size: int) -> None:
    try:
        decoded = decode(f"none{lossless}", (size,), data)
    except CodecError:
        return
    assert decoded.nbytes == size


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.sampled_from(["+zstd", "+lz4"]), st.data())
def test_a_flipped_bit_never_changes_the_size(lossless: str, data: st.DataObject) -> None:
    content = bytes(range(50)) * 40
    packed = bytearray(zstd(content) if lossless == "+zstd" else lz4_block(content))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    try:
        decoded = decode(f"none{lossless}", (2000,), bytes(packed))
    except CodecError:
        return
    assert decoded.nbytes == 2000


def test_a_bool_that_is_neither_true_nor_false_is_true() -> None:
    decoded = decode("none", (4,), b"\x00\x01\x02\xff", dtype="bool")

    assert decoded.view(torch.uint8).tolist() == [0, 1, 1, 1]


BOMB = bytes(1 << 26)


@pytest.mark.parametrize(
    ("codec", "data", "announced"),
    [
        ("none+zstd", zstd(BOMB), 1 << 16),
        ("none+zstd", zstd_of_unknown_size(BOMB), 1 << 16),
        ("none+lz4", lz4_block(BOMB), (1 << 19)),
        ("none+zstd", zstd(b""), 1 << 40),
        ("none+zstd", b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + bytes(9), 1 << 40),
        ("none+lz4", b"\xff\xff\xff\x7f" + bytes(20), 1 << 40),
    ],
    ids=["announces more", "announces nothing", "lz4 expands to more", "empty", "absurd frame", "absurd block"],
)
def test_a_bomb_takes_no_more_memory_than_its_tensor(codec: str, data: bytes, announced: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(codec, (announced,), data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < min(announced, 1 << 19) + (1 << 19)


STAGES = [
    "fp16",
    "bf16",
    "int8",
    "int4/c",
    "int2/c/s",
    "int4/b",
    "none+shuffle+zstd",
    "int4/c+lz4",
    "topk:0.1",
    "topk:0.3+int4/c",
    "topk:0.3+int4/b",
]
STAGES += ["randtopk:0.05+fp16+auto", "delta+int4/c+zstd", "delta+topk:0.2+int8", "ef+topk:0.1+int2"]
CONTEXT = Context(7, ids=torch.tensor([3, 1, 3]))


def genuine(codec: str, shape: tuple[int, ...]) -> Encoded:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return make_codec(codec).encode([tensor], CONTEXT)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.sampled_from(STAGES),
    st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
    st.lists(st.floats() | st.integers(-2, 1 << 42).map(float), max_size=6).map(tuple),
    st.binary(max_size=300),
)
def test_any_parameters_and_bytes_end_in_a_tensor_or_an_error(
    codec: str, shape: tuple[int, ...], params: tuple[float, ...], data: bytes
) -> None:
    encoded = Encoded(Payload(codec, (TensorSpec("float32", shape, params),)), (data,))
    try:
        (decoded,) = make_codec(codec).decode(encoded, CONTEXT)
    except CodecError:
        return
    assert decoded.shape == shape


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.sampled_from(STAGES), st.data())
def test_a_damaged_message_ends_in_a_tensor_or_an_error(codec: str, data: st.DataObject) -> None:
    encoded = genuine(codec, (6, 20, 5))
    spec, buffer = encoded.spec.tensors[0], bytearray(encoded.buffers[0])
    params = list(spec.params)
    place = data.draw(st.integers(-1, len(params) - 1))
    if place >= 0:
        params[place] = data.draw(st.floats() | st.integers(0, 700).map(float))
    else:
        buffer[data.draw(st.integers(0, len(buffer) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    shape = data.draw(st.sampled_from([(6, 20, 5), (600,), (3, 10, 20), (6, 20, 4), (6, 21, 5)]))
    damaged = Encoded(Payload(codec, (TensorSpec("float32", shape, tuple(params)),)), (bytes(buffer),))
    try:
        (decoded,) = make_codec(codec).decode(damaged, CONTEXT)
    except CodecError:
        return
    assert decoded.shape == shape


@pytest.mark.parametrize("codec", STAGES)
@pytest.mark.parametrize("shape", [(1 << 36,), (3, 1 << 35), (1 << 20, 1 << 19)])
def test_a_huge_tensor_of_few_bytes_is_never_made(codec: str, shape: tuple[int, ...]) -> None:
    encoded = genuine(codec, (6, 20, 5))
    params = encoded.spec.tensors[0].params
    numbers = [params, (2.0**36, *params[1:]), (2.0**35, 1.0), (1.0, 1.0), (0.1 * 2**36, 2.0**33, *params[2:])]
    for each in numbers:
        announced = Encoded(Payload(codec, (TensorSpec("float32", shape, each),)), encoded.buffers)
        tracemalloc.start()
        try:
            with pytest.raises(CodecError):
                make_codec(codec).decode(announced, CONTEXT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20


def test_samples_that_never_end_are_told_before_memory_is_full() -> None:
    codec, rows = make_codec("delta+int8", memory_mb=1), torch.ones(64, 1024)
    sender = make_codec("delta+int8")

    for step in range(4):
        at = Context(step, ids=torch.arange(64 * step, 64 * step + 64))
        codec.decode(sender.encode([rows], at), at)
    at = Context(4, ids=torch.arange(1000, 1064))
    with pytest.raises(CodecError, match="the codec's memory would take 2 MiB of this machine; the limit is 1"):
        codec.decode(sender.encode([rows], at), at)


def test_a_sender_that_believes_other_samples_new_is_told() -> None:
    sender, receiver = make_codec("delta+int8"), make_codec("delta+int8")
    at = Context(0, ids=torch.arange(4))
    sender.encode([torch.rand(4, 50)], at)

    with pytest.raises(CodecError, match="is no whole number from 4 to 4"):
        receiver.decode(sender.encode([torch.rand(4, 50)], at), at)


@pytest.mark.parametrize(
    "spec", ["own:__import__", "./evil.py:Codec", "int4/c+/etc/passwd.py:X", "topk:1e9", "topk:nan"]
)
def test_a_spec_from_a_peer_loads_nothing(spec: str) -> None:
    with pytest.raises(UsageError):
        make_codec(spec)
