"""What travels beside the tensors: it is small, and whatever else arrives in its place is refused."""

import math
from contextlib import suppress

import msgspec
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.recording import record, recorded_parts
from common.partition.recording.ghosts import Ghost, ghost, ghostly
from common.partition.recording.journey import checked_route, packed, packed_route, unpacked
from common.partition.recording.outcomes import Entry, Fresh, Kept, Literal, Many, Plain, Same

_INPUTS = Many("tuple", (Many("tuple", (Kept(0),)), Many("dict", (Literal(2.5),), ("scale",))))
_ENTRIES: list[Entry] = [
    (1, Fresh((2, 3), 0, 0)),
    (2, Same(0)),
    (3, Many("topk", (Kept(1), Fresh((2,), 4, 0)))),
    (4, Plain()),
]


def test_what_is_packed_is_read() -> None:
    journey = unpacked(packed(packed_route("a cut", _INPUTS, _ENTRIES), 5, [True, -1, 0.1, "word", [[1], [2]], (3, 4)]))
    route, entries = checked_route(journey.route, "a cut", 2)
    assert route.inputs == _INPUTS
    assert entries == _ENTRIES
    assert journey.numbers == 5
    assert journey.values == (True, -1, 0.1, "word", [[1], [2]], [3, 4])


def test_equal_calls_take_little() -> None:
    short = packed_route("a cut", _INPUTS, _ENTRIES)
    assert len(packed_route("a cut", _INPUTS, _ENTRIES * 100)) < len(short) + 20


@pytest.mark.parametrize("value", [2**70, 1j, {"a": 1}])
def test_numbers_that_cannot_travel_are_told(value: object) -> None:
    with pytest.raises(PartitionError):
        unpacked(packed(b"", 0, [value]))


def test_a_route_of_another_cut_is_refused() -> None:
    with pytest.raises(PartitionError, match="cut elsewhere"):
        checked_route(packed_route("a cut", _INPUTS, _ENTRIES), "another", 2)


@pytest.mark.parametrize(
    "outcome",
    [
        Fresh((-1,), 0, 0),
        Fresh((1 << 40, 1 << 40), 0, 0),
        Fresh((1,) * 65, 0, 0),
        Fresh((1,), 99, 0),
        Kept(2),
        Kept(-1),
        Same(-1),
        Many("__doc__", ()),
        Many("dict", (Kept(0),)),
        Many("tuple", (Kept(0),), ("a",)),
    ],
)
def test_impossible_outcomes_are_refused(outcome: object) -> None:
    with pytest.raises(PartitionError, match="the journey"):
        checked_route(packed_route("a cut", _INPUTS, [(1, outcome)]), "a cut", 2)  # type: ignore[list-item]


def test_a_route_that_would_unpack_to_more_than_is_allowed_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 25))
    with pytest.raises(PartitionError, match="at most"):
        checked_route(bomb, "a cut", 2)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 25))
    with pytest.raises(PartitionError):
        checked_route(unsized, "a cut", 2)


def test_nested_bytes_are_refused() -> None:
    deep = b"\x91" * 100_000
    with pytest.raises(PartitionError):
        unpacked(torch.frombuffer(bytearray(deep), dtype=torch.uint8))
    with pytest.raises(PartitionError):
        checked_route(zstandard.ZstdCompressor().compress(deep), "a cut", 2)


class _Model(nn.Module):
    def forward(self, x: Tensor, scale: float) -> Tensor:
        top = x.exp().topk(2)
        count = int(top.indices.sum())
        return (top.values * scale + count).sin()


def _split() -> tuple[nn.Module, nn.Module]:
    recording = record(_Model(), (torch.rand(5), 2.0), {}, training=False)
    before = [step.name for step in recording.steps].index("mul") + 1
    head, tail = recorded_parts(_Model().eval(), {False: [recording]}, {False: [before]})
    return head, tail


_HEAD, _TAIL = _split()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_journeys_never_get_further_than_the_model(data: st.DataObject) -> None:
    *tensors, journey = _HEAD(torch.rand(5), 3.0)
    damaged = bytearray(journey.numpy().tobytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(1, len(damaged)))]
    # A damaged value may reach the model's own code, which finds words of its own for it.
    with suppress(PartitionError, TypeError, RuntimeError):
        _TAIL(*tensors, torch.frombuffer(damaged, dtype=torch.uint8))


@pytest.mark.parametrize("last", [torch.rand(3), torch.zeros(2, 2, dtype=torch.uint8), 7])
def test_what_is_no_journey_is_refused(last: object) -> None:
    with pytest.raises(PartitionError, match="must be the journey"):
        _TAIL(torch.rand(2), last)
    with pytest.raises(PartitionError, match="must be the journey"):
        _TAIL()


def test_too_few_tensors_or_values_are_refused() -> None:
    *tensors, journey = _HEAD(torch.rand(5), 3.0)
    with pytest.raises(PartitionError, match="the journey speaks of"):
        _TAIL(*tensors[:-1], journey)
    route = unpacked(journey).route
    with pytest.raises(PartitionError, match="fewer values"):
        _TAIL(*tensors, packed(route, 0, []))


def test_routes_alike_are_the_same_bytes() -> None:
    first, second = (unpacked(_HEAD(torch.rand(5), 3.0)[-1]) for _ in range(2))
    assert first.route == second.route
    assert unpacked(_HEAD(torch.rand(6), 3.0)[-1]).route != first.route


def test_special_numbers_travel() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, object]:
            return x + 1, (x[0].item(), x.tolist(), x.numpy(), x.stride())

    recording = record(Model(), (torch.rand(2),), {}, training=False)
    head, tail = recorded_parts(Model().eval(), {False: [recording]}, {False: [len(recording.steps) - 1]})
    y, (first, both, array, stride) = tail(*head(torch.tensor([math.inf, math.nan])))
    assert first == math.inf
    assert math.isnan(both[1])
    assert array.dtype.name == "float32"
    assert stride == (1,)
    assert torch.equal(y[:1], torch.tensor([math.inf]))


def test_ghosts_answer_questions_and_refuse_the_rest() -> None:
    stand_in = ghost((1 << 20, 1 << 20), torch.float32, requires_grad=True)
    assert stand_in.shape == (1 << 20, 1 << 20)
    assert stand_in.requires_grad
    assert repr(stand_in) == "Ghost((1048576, 1048576), torch.float32)"
    with pytest.raises(PartitionError, match="add needs a tensor that did not cross"):
        stand_in + 1
    with pytest.raises(PartitionError, match="sum"):
        torch.sum(stand_in)
    assert isinstance(ghost((2,), torch.float32, parameter=True), nn.Parameter)


def test_ghosts_are_found_wherever_a_call_can_have_them() -> None:
    stand_in: Tensor = ghost((2,), torch.float32)
    assert type(stand_in) is Ghost
    for arguments in ((stand_in,), ([1, (stand_in,)],), ({"a": stand_in},), (slice(None, stand_in),)):
        assert ghostly(arguments)
    assert not ghostly((1, [torch.rand(2)], slice(3)))


def test_messages_are_plain_msgpack() -> None:
    *_, journey = _HEAD(torch.rand(5), 3.0)
    route, numbers, values = msgspec.msgpack.decode(journey.numpy().tobytes())
    assert isinstance(route, bytes)
    assert isinstance(numbers, int)
    assert len(values) == 1
