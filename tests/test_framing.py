"""Frames: round trips in any portions, what is refused and when, and that `docs/protocol.md` says the same."""

import random
import re
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ProtocolError
from common.wire import messages, structs
from common.wire.framing import ALIGNMENT, VERSION, Buffer, Frame, FrameReader, Limits, feed, frame_bytes, pack
from common.wire.messages import (
    Activations,
    Attach,
    Attached,
    Error,
    Finish,
    Finished,
    Gradients,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
)
from common.wire.structs import Job, Payload, TensorSpec, View

PREFIX = struct.Struct("<4sBBHIIQQ")
MESSAGES: tuple[type[structs.Struct], ...] = get_args(Message)
PROTOCOL_MD = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()

SMALL_PAYLOAD = Payload("none", (TensorSpec("float16", (2,)),))
GRADIENTS = Gradients(5, True, 2.25, 3, 4, SMALL_PAYLOAD)
UPLOAD = Activations(
    3, 1, True, SMALL_PAYLOAD, TensorSpec("uint8", (4,)), TensorSpec("int64", (4,)), (True,), random_state=True
)

JOB = Job(
    workload="discriminative",
    model="resnet20",
    num_classes=10,
    input_shape=(3, 32, 32),
    cut=7,
    cut_name="features.3",
    splits=12,
    split_index=4,
    graph_digest="a" * 16,
    weights_digest="b" * 16,
    batch_size=32,
    epochs=10,
    optim="resnet",
    learning_rate=0.1,
    seed=1,
    stale_it=4,
    dropout=0.0,
    compress_up="int8+zstd",
    compress_down="fp16",
)

examples = settings(max_examples=40, deadline=None, derandomize=True)
numbers = st.integers(-(2**63), 2**64 - 1)
reals = st.floats(allow_nan=False)
texts = st.text(max_size=20)
specs = st.builds(TensorSpec, texts, st.lists(numbers, max_size=4).map(tuple), st.lists(reals, max_size=2).map(tuple))
payloads = st.builds(Payload, texts, st.lists(specs, max_size=3).map(tuple))
sizes = st.lists(numbers, max_size=4).map(tuple)
views = st.lists(st.builds(View, numbers, numbers, sizes, sizes), max_size=3).map(tuple)
pieces = st.lists(st.builds(structs.Piece, texts, texts, specs), max_size=3).map(tuple)
keys = st.binary(max_size=20)
resumes = st.builds(structs.Resume, texts, keys, sizes)
any_message = st.one_of(
    st.builds(Open, numbers, texts, st.just(JOB), numbers, st.none() | resumes),
    st.builds(Opened, texts, keys, texts, st.lists(texts, max_size=2).map(tuple), numbers, texts),
    st.builds(messages.Measure, numbers, texts, st.just(JOB), st.lists(texts, max_size=2).map(tuple)),
    st.builds(messages.Measured, keys),
    st.builds(messages.Meet, numbers, texts, texts, numbers, numbers, numbers, keys),
    st.builds(messages.Met, sizes, keys),
    st.builds(messages.Identities, numbers),
    st.builds(messages.Aligned, sizes, texts),
    st.builds(Ping, numbers, numbers),
    st.builds(Pong, numbers, reals, reals, numbers),
    st.builds(Attach, texts, keys, numbers),
    st.builds(Attached, numbers),
    st.builds(messages.Inputs, numbers, numbers, st.booleans(), st.lists(specs, max_size=2).map(tuple), specs),
    st.builds(messages.Applied, numbers),
    st.builds(messages.Outputs, numbers, st.booleans(), payloads),
    st.builds(messages.OutputGradients, numbers, reals, numbers, payloads),
    st.builds(messages.Checkpoint, numbers, st.booleans()),
    st.builds(messages.Checkpointed, pieces),
    st.builds(messages.Move, numbers, texts, texts, texts, numbers, numbers, numbers, pieces),
    st.builds(messages.Moved, pieces, texts),
    st.builds(messages.Average, pieces),
    st.builds(messages.Averaged, numbers, pieces),
    st.builds(messages.Bye),
    st.builds(
        Activations,
        numbers,
        numbers,
        st.booleans(),
        payloads,
        specs,
        specs,
        st.just((True, False)),
        st.booleans(),
        views,
    ),
    st.builds(
        Gradients, numbers, st.booleans(), reals, numbers, numbers, payloads, st.just(structs.TailTimes()), views
    ),
    st.builds(Finish),
    st.builds(Finished, st.dictionaries(texts, texts, max_size=3)),
    st.builds(Error, texts, texts),
)
any_buffers = st.lists(st.binary(max_size=200), max_size=5)


def joined(parts: list[Buffer]) -> bytes:
    return b"".join(bytes(part) for part in parts)


def framed(header: bytes, body: bytes = b"", *, flags: int = 1, reserved: int = 0, version: int = 2) -> bytes:
    """A frame with right sums around any header and body: an independent second writer of the format."""
    digest = xxhash.xxh3_64_intdigest(header + body) if flags & 1 else 0
    return prefixed(len(header), len(body), digest, flags=flags, reserved=reserved, version=version) + header + body


def prefixed(
    header_bytes: int, body_bytes: int, digest: int = 0, *, flags: int = 1, reserved: int = 0, version: int = 2
) -> bytes:
    fields = [b"TNDM", version, flags, reserved, header_bytes, 0, body_bytes, digest]
    fields[5] = xxhash.xxh3_64_intdigest(PREFIX.pack(*fields)) & 0xFFFFFFFF
    return PREFIX.pack(*fields)


def header(sizes: list[int], message: object) -> bytes:
    return msgspec.msgpack.encode([sizes, message])


def read(data: bytes, limits: Limits | None = None) -> list[Frame]:
    return feed(FrameReader(limits), data)


def refused(data: bytes, match: str, limits: Limits | None = None) -> None:
    with pytest.raises(ProtocolError, match=match):
        read(data, limits)


def contents(frame: Frame) -> tuple[Message, list[bytes]]:
    return frame.message, [bytes(buffer) for buffer in frame.buffers]


def portions(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        size = next(sizes)
        yield data[start : start + size]
        start += size


class TestRoundTrip:
    @examples
    @given(any_message, any_buffers)
    def test_all_at_once(self, message: Message, buffers: list[bytes]) -> None:
        data = joined(pack(message, buffers))
        (frame,) = read(data)
        assert contents(frame) == (message, buffers)
        assert frame.nbytes == len(data)

    @examples
    @given(any_message, any_buffers)
    def test_one_byte_at_a_time(self, message: Message, buffers: list[bytes]) -> None:
        reader, data = FrameReader(), joined(pack(message, buffers))
        frames = [frame for i in range(len(data)) for frame in feed(reader, data[i : i + 1])]
        assert [contents(frame) for frame in frames] == [(message, buffers)]

    @examples
    @given(st.lists(st.tuples(any_message, any_buffers), min_size=2, max_size=4), st.randoms(use_true_random=False))
    def test_several_frames_in_any_portions(self, sent: list[tuple[Message, list[bytes]]], rng: random.Random) -> None:
        data = b"".join(joined(pack(message, buffers)) for message, buffers in sent)
        reader = FrameReader()
        sizes = iter(lambda: rng.choice((1, 7, 31, 32, 33, 64, 500)), 0)
        frames = [frame for portion in portions(data, sizes) for frame in feed(reader, portion)]
        assert [contents(frame) for frame in frames] == sent
        assert reader.at_boundary

    def test_buffers_keep_their_bytes_when_the_next_frame_comes(self) -> None:
        reader = FrameReader()
        (first,) = feed(reader, joined(pack(GRADIENTS, [b"\1" * 100])))
        feed(reader, joined(pack(GRADIENTS, [b"\2" * 100])))
        assert bytes(first.buffers[0]) == b"\1" * 100

    def test_without_checksum_where_that_is_agreed(self) -> None:
        data = joined(pack(GRADIENTS, [b"abc"], checksum=False))
        (frame,) = feed(FrameReader(checksum=False), data)
        assert contents(frame) == (GRADIENTS, [b"abc"])

    def test_with_checksum_where_none_is_needed(self) -> None:
        (frame,) = feed(FrameReader(checksum=False), joined(pack(GRADIENTS, [b"abc"])))
        assert contents(frame) == (GRADIENTS, [b"abc"])

    def test_a_second_writer_of_the_format_is_understood(self) -> None:
        data = framed(header([3, 0], msgspec.to_builtins(GRADIENTS)), b"abc" + bytes(61))
        assert contents(read(data)[0]) == (GRADIENTS, [b"abc", b""])
        assert joined(pack(GRADIENTS, [b"abc", b""])) == data

    def test_fields_with_defaults_may_be_left_out(self) -> None:
        short = ["opened", "a", b"", "b"]
        assert read(framed(header([], short)))[0].message == Opened("a", b"", "b")


class TestMemory:
    def test_pack_refers_to_the_buffers(self) -> None:
        buffers = [np.arange(100, dtype=np.uint8), np.arange(64, dtype=np.uint8)]
        parts = pack(GRADIENTS, [each.data for each in buffers])
        packed = [np.frombuffer(part, np.uint8) for part in parts]
        for buffer in buffers:
            assert any(np.shares_memory(buffer, part) for part in packed)

    def test_pack_allocates_no_more_than_a_header(self) -> None:
        big = bytearray(1 << 24)
        pack(GRADIENTS, [big])
        tracemalloc.start()
        try:
            pack(GRADIENTS, [big])
            assert tracemalloc.get_traced_memory()[1] < 1 << 14
        finally:
            tracemalloc.stop()

    def test_pack_takes_buffers_of_any_element_type(self) -> None:
        (frame,) = read(joined(pack(GRADIENTS, [np.arange(6, dtype=np.float32).reshape(2, 3).data])))
        assert np.frombuffer(frame.buffers[0], np.float32).tolist() == [0, 1, 2, 3, 4, 5]

    @examples
    @given(any_buffers)
    def test_every_received_buffer_is_aligned(self, buffers: list[bytes]) -> None:
        (frame,) = read(joined(pack(GRADIENTS, buffers)))
        for buffer in frame.buffers:
            if len(buffer):
                assert np.frombuffer(buffer, np.uint8).ctypes.data % ALIGNMENT == 0

    def test_received_buffers_are_views_of_the_block_that_was_received_into(self) -> None:
        data, reader, targets = joined(pack(GRADIENTS, [b"a" * 100, b"b" * 100])), FrameReader(), []
        frames: list[Frame] = []
        while not frames:
            target = reader.get_buffer()
            targets.append(np.frombuffer(target, np.uint8))
            target[:] = data[: len(target)]
            frames = reader.buffer_updated(len(target))
            data = data[len(target) :]
        for buffer in frames[0].buffers:
            assert np.shares_memory(np.frombuffer(buffer, np.uint8), targets[-1])

    def test_frame_bytes_is_the_size_on_the_wire(self) -> None:
        parts = pack(GRADIENTS, [b"a" * 100, b"", b"b" * 64])
        assert frame_bytes(parts) == len(joined(parts)) == read(joined(parts))[0].nbytes


class TestBoundary:
    def test_only_between_frames(self) -> None:
        reader, data = FrameReader(), joined(pack(GRADIENTS, [b"abc"]))
        assert reader.at_boundary
        for i in range(len(data) - 1):
            feed(reader, data[i : i + 1])
            assert not reader.at_boundary
        feed(reader, data[-1:])
        assert reader.at_boundary

    @examples
    @given(any_message, any_buffers)
    def test_the_buffer_never_reaches_beyond_the_frame(self, message: Message, buffers: list[bytes]) -> None:
        reader, data = FrameReader(), joined(pack(message, buffers))
        rest = len(data)
        while rest:
            target = reader.get_buffer()
            assert 0 < len(target) <= rest
            target[:] = data[len(data) - rest :][: len(target)]
            rest -= len(target)
            assert bool(reader.buffer_updated(len(target))) == (rest == 0)


class TestRefusal:
    def test_another_protocol(self) -> None:
        refused(b"GET / HTTP/1.1\r\nHost: tandem\r\n\r\n", "does not speak Tandem.*GET / HT.*right address and port")

    def test_another_version(self) -> None:
        refused(
            framed(header([], ["finish"]), version=3),
            "version 3, this side reads 2; install the same version of Tandem",
        )

    @pytest.mark.parametrize("offset", range(5, 32))
    def test_a_damaged_prefix(self, offset: int) -> None:
        data = bytearray(joined(pack(GRADIENTS, [b"abc"])))
        data[offset] ^= 0x10
        refused(bytes(data), "prefix is damaged")

    def test_a_damaged_header(self) -> None:
        data = bytearray(joined(pack(Ping(7))))
        data[-1] ^= 1  # the number: still a well-formed header
        refused(bytes(data), "checksum does not match")

    def test_a_header_damaged_beyond_reading_is_told_as_damage(self) -> None:
        data = bytearray(joined(pack(Ping(7))))
        data[32] ^= 0xFF
        refused(bytes(data), "checksum does not match")

    @pytest.mark.parametrize("offset_from_end", [1, 61, 62, 64, 128])  # padding, the second buffer, the first one
    def test_a_damaged_body(self, offset_from_end: int) -> None:
        data = bytearray(joined(pack(GRADIENTS, [b"a" * 64, b"abc"])))
        data[-offset_from_end] ^= 1
        refused(bytes(data), "checksum does not match")

    def test_unknown_flags(self) -> None:
        refused(framed(header([], ["finish"]), flags=3), "unknown flags 0x3")
        refused(framed(header([], ["finish"]), reserved=9), "unknown flags 0x1/0x9")

    def test_no_checksum(self) -> None:
        refused(joined(pack(Ping(1), checksum=False)), "no checksum, which this connection needs")

    def test_no_header(self) -> None:
        refused(prefixed(0, 0), "no header")

    def test_sizes_that_do_not_add_up(self) -> None:
        finish = ["finish"]
        for sizes in ([1], [64, 1], [65], [-64, 128], [2**63, 2**63], []):
            body = b"" if sizes == [1] else bytes(64)
            refused(framed(header(sizes, finish), body), "do not make a body")

    @pytest.mark.parametrize(
        ("message", "match"),
        [
            (["shutdown"], "Invalid value 'shutdown'"),
            ([1], "Expected `str`"),
            (["ping", 1, 0, 0.0, 0.0, 2], "at most length 4, got 5"),
            (["ping"], "at least length"),
            (["ping", "1"], "Expected `int`, got `str`"),
            (["gradients", 0, True, 0.0, 0, 0, ["none", [["float16", [2], [], 0]]]], "at most length 3"),
            ([], "at least length"),
            ({"type": "ping", "number": 1}, "Expected `array`, got `object`"),
        ],
    )
    def test_unknown_messages(self, message: object, match: str) -> None:
        refused(framed(header([], message)), f"cannot be read.*{match}.*same version of Tandem")

    def test_unknown_parts_of_the_header(self) -> None:
        refused(framed(msgspec.msgpack.encode([[], ["finish"], 1])), "at most length 2")
        refused(framed(header([], ["finish"]) + b"\0"), "trailing characters")

    @pytest.mark.parametrize(
        "raw",
        [
            header([], ["attach", "abcd"]).replace(b"abcd", b"\xff\xfe\xfd\xfc"),
            header([], ["attach", "abcd"]).replace(b"attach", b"\xff" * 6),
            b"\x92\x90\x92\xa4ping" + b"\x91" * 100_000,
            b"\x92\xdd\xff\xff\xff\xff\x00",
            b"\x92\x90\x92" + msgspec.msgpack.encode("finished") + b"\xdf\xff\xff\xff\xff",
        ],
        ids=["text not utf-8", "tag not utf-8", "nested too deep", "array of 4 billion", "map of 4 billion"],
    )
    def test_headers_meant_to_harm(self, raw: bytes) -> None:
        refused(framed(raw), "cannot be read")

    def test_a_reader_of_small_frames_says_both_numbers(self) -> None:
        refused(prefixed(101, 0), "header of 101 bytes; the limit here is 100", Limits(100, 1000))
        refused(prefixed(100, 1001), "body of 1001 bytes; the limit here is 1000", Limits(100, 1000))
        refused(framed(header([0] * 11, ["finish"])), "11 buffers; the limit here is 10", Limits(buffers=10))

    def test_limits_hold_to_the_byte(self) -> None:
        parts = pack(GRADIENTS, [bytes(128)])
        header_bytes = len(parts[0]) - PREFIX.size
        assert read(joined(parts), Limits(header_bytes, 128, 1))
        for limits in (Limits(header_bytes - 1, 128, 1), Limits(header_bytes, 127, 1), Limits(header_bytes, 128, 0)):
            refused(joined(parts), "limit here", limits)

    @pytest.mark.parametrize("sizes", [(1 << 20, 1 << 30), (1 << 32) - 1, (1 << 64) - 1], ids=str)
    def test_nothing_is_allocated_for_what_is_too_large(self, sizes: int | tuple[int, int]) -> None:
        data = prefixed(10, sizes) if isinstance(sizes, int) else prefixed(*sizes)
        limits = Limits(header_bytes=1 << 16, body_bytes=1 << 16)
        tracemalloc.start()
        try:
            refused(data, "limit here", limits)
            assert tracemalloc.get_traced_memory()[1] < 1 << 16
        finally:
            tracemalloc.stop()

    def test_a_body_is_not_allocated_before_its_header_has_been_read(self) -> None:
        reader = FrameReader(Limits(body_bytes=1 << 30))
        tracemalloc.start()
        try:
            feed(reader, prefixed(100, 1 << 30))
            assert len(reader.get_buffer()) == 100
            assert tracemalloc.get_traced_memory()[1] < 1 << 16
        finally:
            tracemalloc.stop()


class TestFuzz:
    """Whatever comes: a frame, a wait for more, or a ProtocolError; never more memory than the limits allow."""

    LIMITS = Limits(header_bytes=1 << 12, body_bytes=1 << 14, buffers=64)
    MEMORY = 1 << 18  # the limits, and what a header of that size becomes as objects

    def survives(self, data: bytes) -> None:
        reader = FrameReader(self.LIMITS)
        try:
            feed(reader, data)
        except ProtocolError:
            return
        assert len(reader.get_buffer()) <= max(self.LIMITS.header_bytes, self.LIMITS.body_bytes)

    @pytest.mark.slow
    def test_mutations_of_frames(self) -> None:
        rng = random.Random(7)
        originals = [framed_parts(m, b) for m, b in ((GRADIENTS, [b"abc"]), (UPLOAD, [b"a" * 70] * 4), (Ping(1), []))]
        until = time.monotonic() + 1.5
        tracemalloc.start()
        try:
            for round_ in range(12_000):
                raw, body = rng.choice(originals)
                mutate = rng.choice(MUTATIONS)
                # Half of them with right sums, so that they come past the checksums to what is behind.
                data = framed(mutate(raw, rng), body) if round_ % 2 else mutate(framed(raw, body), rng)
                self.survives(data)
                if time.monotonic() > until:
                    break
            assert round_ > 100
            assert tracemalloc.get_traced_memory()[1] < self.MEMORY
        finally:
            tracemalloc.stop()

    @examples
    @given(st.binary(max_size=300))
    def test_any_bytes(self, data: bytes) -> None:
        self.survives(data)

    @examples
    @given(st.binary(min_size=1, max_size=300), st.binary(max_size=300))
    def test_any_header_and_body_with_right_sums(self, raw: bytes, body: bytes) -> None:
        self.survives(framed(raw, body))


def framed_parts(message: Message, buffers: list[bytes]) -> tuple[bytes, bytes]:
    """Header and body of a frame."""
    parts = pack(message, buffers)
    return bytes(parts[0][PREFIX.size :]), joined(parts[1:])


def flip(data: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
    return bytes(mutated)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randint(1, 9)) + data[start + rng.randint(0, 9) :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(1, len(data))]


def repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start : start + rng.randint(1, 40)] * rng.randint(2, 30) + data[start:]


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [flip, overwrite, truncate, repeat]


class TestDocument:
    """`docs/protocol.md` against the code."""

    def test_its_example_is_a_real_frame(self) -> None:
        (dump,) = re.findall(r"```hex\n(.*?)```", PROTOCOL_MD, re.DOTALL)
        data = b""
        for line in dump.splitlines():
            offset, _, digits = line.partition("  ")
            assert int(offset, 16) == len(data)
            data += bytes.fromhex(digits)
        assert data == joined(pack(GRADIENTS, [np.array([1.0, -2.0], "<f2").tobytes()]))
        (frame,) = read(data)
        assert frame.message == GRADIENTS
        assert f"{len(data)} bytes" in PROTOCOL_MD

    @pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__struct_config__.tag)
    def test_fields_of_messages(self, kind: type[structs.Struct]) -> None:
        self.compare(f"`{kind.__struct_config__.tag}`", kind)

    @pytest.mark.parametrize("kind", [Job, Payload, TensorSpec, View, structs.TailTimes, structs.Resume, structs.Piece])
    def test_fields_of_their_parts(self, kind: type[structs.Struct]) -> None:
        text = self.compare(kind.__name__, kind)
        assert ("*Array.*" in text) == bool(kind.__struct_config__.array_like)

    def compare(self, title: str, kind: type[structs.Struct]) -> str:
        (section,) = re.findall(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", PROTOCOL_MD, re.DOTALL | re.MULTILINE)
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| ", section.split("| code |")[0], re.MULTILINE)
        fields = msgspec.structs.fields(kind)
        assert [name for name, _ in rows] == [field.name for field in fields]
        for (name, type_), field in zip(rows, fields, strict=True):
            has_default = field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT
            assert ("default" in type_) == has_default, name
        return str(section)

    def test_every_message_and_no_other(self) -> None:
        documented = set(re.findall(r"^### `(\w+)`$", PROTOCOL_MD, re.MULTILINE))
        assert documented == {kind.__struct_config__.tag for kind in MESSAGES}

    def test_versions_and_limits(self) -> None:
        assert f"Frame version {VERSION}, message version {messages.PROTOCOL}." in PROTOCOL_MD
        limits = Limits()
        assert (
            f"| {limits.header_bytes} | the largest of a step of the job, + 64 KiB | {limits.buffers} |" in PROTOCOL_MD
        )


def test_messages_are_frozen_and_equal_by_value() -> None:
    assert Error("failed", "x") == Error("failed", "x")
    assert {Attached(0): 1}[Attached(0)] == 1
    with pytest.raises(AttributeError):
        Pong(1, 2.0).number = 3  # type: ignore[misc]
    assert read(joined(pack(Finished({"a.weight": "12"}))))[0].message == Finished({"a.weight": "12"})
    assert Open.__struct_fields__[0] == "protocol"
