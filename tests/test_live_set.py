"""A live set comes out of its storages as it went in: values, strides, and what shares memory with what."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.codec import make_codec
from common.errors import PartitionError, ProtocolError
from common.partition.layout import most_bytes, pack, unpack
from common.partition.steps import Leaf, Memory
from common.wire.structs import View

examples = settings(max_examples=300, deadline=None, derandomize=True)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def carried(values: list[Tensor], groups: list[list[int]], codec: str = "none") -> list[Tensor]:
    """What comes out at the other side: from memory of its own."""
    storages, views = pack(values, groups)
    coder = make_codec(codec)
    return list(unpack([each.clone() for each in coder.decode(coder.encode(storages, 0))], views))


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(math.prod(shape)).reshape(shape).to(dtype)


@st.composite
def view_of(draw: st.DrawFn, base: Tensor) -> Tensor:
    """Permuted, sliced, selected, expanded, reshaped or windowed, several times over."""
    value = base
    for _ in range(draw(st.integers(0, 4))):
        if not value.dim():
            break
        dim = draw(st.integers(0, value.dim() - 1))
        match draw(st.sampled_from(["permute", "slice", "select", "expand", "unsqueeze", "unfold", "flatten"])):
            case "permute":
                value = value.permute(draw(st.permutations(range(value.dim()))))
            case "slice":
                start = draw(st.integers(0, value.shape[dim]))
                value = value.narrow(dim, start, draw(st.integers(0, value.shape[dim] - start)))
                value = value[(slice(None),) * dim + (slice(None, None, draw(st.integers(1, 2))),)]
            case "select" if value.shape[dim]:
                value = value.select(dim, draw(st.integers(0, value.shape[dim] - 1)))
            case "expand" if value.dim() < 5:
                value = value.expand(draw(st.integers(1, 3)), *value.shape)
            case "unsqueeze" if value.dim() < 5:
                value = value.unsqueeze(dim)
            case "unfold" if value.shape[dim] > 1 and value.dim() < 5:
                value = value.unfold(dim, 2, draw(st.integers(1, 2)))
            case "flatten" if value.is_contiguous():
                value = value.flatten()
            case _:
                pass
    return value


@st.composite
def views_of_one(draw: st.DrawFn) -> list[Tensor]:
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    base = numbered(*shape, dtype=draw(st.sampled_from(DTYPES)))
    return draw(st.lists(view_of(base), min_size=1, max_size=4))


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)


@pytest.mark.slow
@examples
@given(views_of_one())
def test_tensors_alone_come_out_as_they_were(values: list[Tensor]) -> None:
    assert all(map(same, values, carried(values, [])))


@pytest.mark.slow
@examples
@given(views_of_one())
def test_tensors_over_one_memory_share_it_again(values: list[Tensor]) -> None:
    came = carried(values, [list(range(len(values)))])

    assert all(map(same, values, came))
    filled = [i for i, value in enumerate(values) if value.numel()]
    for i in filled:
        assert came[i].data_ptr() - came[filled[0]].data_ptr() == values[i].data_ptr() - values[filled[0]].data_ptr()


@pytest.mark.slow
@examples
@given(views_of_one())
def test_no_more_is_sent_than_there_is(values: list[Tensor]) -> None:
    storages, _ = pack(values)

    for storage, value in zip(storages, values, strict=True):
        assert storage.numel() <= value.numel()
    leaves = [
        Leaf(tuple(each.shape), each.dtype, Memory(0, int(each.storage_offset()), each.stride()), True)
        for each in values
    ]
    together = [[i for i, each in enumerate(values) if each.numel()]]
    assume(together != [[]])
    assert sum(each.nbytes for each in pack(values, together)[0]) <= most_bytes(leaves, together)


def test_what_is_written_through_one_shows_in_the_others() -> None:
    x = numbered(2, 4, 3)

    whole, turned, part = carried([x, x.transpose(1, 2), x[:, 1:3]], [[0, 1, 2]])
    part.zero_()

    assert not whole[:, 1:3].any()
    assert not turned[:, :, 1:3].any()
    assert torch.equal(whole[:, 3], x[:, 3])


def test_the_usual_live_set_travels_as_it_is() -> None:
    values = [torch.rand(2, 3, 4).requires_grad_(), torch.tensor(3), torch.empty(0, 4), torch.tensor([True])]

    storages, views = pack(values)

    assert views == ()
    assert [each.data_ptr() for each in storages] == [each.data_ptr() for each in values]
    assert not any(each.requires_grad for each in storages)
    assert unpack(storages, views) == storages


@pytest.mark.parametrize("turn", [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.transpose(1, 3)])
def test_permuted_tensors_are_not_copied(turn: Callable[[Tensor], Tensor]) -> None:
    value = turn(torch.rand(2, 3, 4, 5))

    storages, views = pack([value])

    assert storages[0].is_contiguous()
    assert storages[0].data_ptr() == value.data_ptr()
    assert unpack(storages, views)[0].data_ptr() == value.data_ptr()


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (numbered(4, 6, 5)[:, 2:4], 4 * 2 * 5),
        (numbered(4, 1, 5).expand(4, 6, 5), 4 * 5),
        (numbered(4, 6, 5)[:, :1].expand(4, 6, 5), 4 * 5),
        (numbered(20).unfold(0, 4, 1), 20),
        (numbered(9, 1 << 13)[:, 0], 9),
    ],
)
def test_only_elements_travel(value: Tensor, elements: int) -> None:
    (storage,), _ = pack([value])

    assert storage.numel() == elements
    assert torch.equal(carried([value], [])[0], value)


def test_strides_too_wide_to_be_made_again_are_closed() -> None:
    (came,) = carried([numbered(9, 1 << 13)[:, :1].expand(2, 9, 1)], [])

    assert came.stride() == (0, 1, 1)


def test_where_memory_begins_is_kept_where_it_is_made_anew() -> None:
    x = numbered(4, 16)

    alone, *both = carried([x[:, 3:7], x[:, 3:5], x[:, 4:7]], [[1, 2]])

    assert alone.data_ptr() % 64 == both[0].data_ptr() % 64 == 12
    assert both[1].data_ptr() % 64 == 16


def test_a_group_in_several_storages_travels_apart() -> None:
    x, y = torch.rand(4, 4), torch.rand(4)

    storages, views = pack([x, y, x[1:]], [[0, 1, 2]])

    assert [view.storage for view in views] == [0, 1, 0]
    assert [each.numel() for each in storages] == [16, 4]


def test_a_gap_cannot_spoil_a_lossy_codec() -> None:
    memory = torch.full((4, 8), math.nan)
    memory[:, :4] = torch.linspace(-1, 1, 16).reshape(4, 4)

    left, right = carried([memory[:, :3], memory[:, 1:4]], [[0, 1]], "int8")

    assert torch.allclose(left, memory[:, :3], atol=0.01, rtol=0)
    assert right.data_ptr() - left.data_ptr() == 4


def test_one_memory_in_two_dtypes_is_refused() -> None:
    x = torch.rand(4)

    with pytest.raises(PartitionError, match=r"tensor 1 is torch.float32, tensor 2 is torch.int32\); cut elsewhere"):
        pack([torch.rand(2), x, x.view(torch.int32)], [[1, 2]])


STORAGES = [torch.zeros(6), torch.zeros(2, 3), torch.zeros(())]
HOSTILE = [
    (View(0, 0, (7,), (1,)), "for a storage of 6 elements"),
    (View(0, 1, (2, 2), (3, 4)), "for a storage of 6 elements"),
    (View(0, 1 << 20, (2, 3), (3, 1)), "for a storage of 6 elements"),
    (View(0, 0, (2, 3), (1 << 12, 1 << 11)), "for a storage of 6 elements"),
    (View(0, -1, (2,), (1,)), "which no tensor has"),
    (View(0, 0, (-2,), (1,)), "which no tensor has"),
    (View(0, 4, (2,), (-1,)), "which no tensor has"),
    (View(0, 0, (2,), (1, 1)), "which no tensor has"),
    (View(0, 0, (1 << 62,), (0,)), "which no tensor has"),
    (View(0, 0, (1 << 30, 1 << 30), (0, 0)), "which no tensor has"),
    (View(0, 0, (0, 1 << 62), (1, 1)), "which no tensor has"),
    (View(0, 0, (1,), (1 << 63,)), "which no tensor has"),
    (View(0, 0, (1,) * 65, (1,) * 65), "which no tensor has"),
]


@pytest.mark.parametrize(("view", "message"), HOSTILE)
def test_a_view_that_no_tensor_has(view: View, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        unpack(STORAGES, [view, View(1, 0, (6,), (1,)), View(2, 0, (), ())])


@pytest.mark.parametrize("numbers", [(0, 1), (0, 1, 2, 3), (0, 1, -1), (0, 1, 1 << 70), ()])
def test_views_that_do_not_go_with_the_storages(numbers: tuple[int, ...]) -> None:
    views = [View(number, 0, (1,), (1,)) for number in numbers]

    with pytest.raises(ProtocolError, match="came with 3 storages"):
        unpack(STORAGES, views or [View(5, 0, (), ())])


def test_packed_elements_belong_to_one_view() -> None:
    view = View(0, 0, (2, 3), (4, 1))
    assert unpack(STORAGES[:1], [view])[0].stride() == (4, 1)

    with pytest.raises(ProtocolError, match="for a storage of 6 elements"):
        unpack(STORAGES[:1], [view, view])


small = st.one_of(st.integers(0, 4), st.integers(-2, 1 << 64))


@pytest.mark.slow
@examples
@given(st.lists(st.builds(View, small, small, *[st.lists(small, max_size=3).map(tuple)] * 2), min_size=1, max_size=3))
def test_whatever_is_told_stays_within_bounds(views: list[View]) -> None:
    storages = [torch.ones(6), torch.ones(2, 3)]
    try:
        came = unpack(storages, views)
    except ProtocolError:
        return
    for each in came:
        held = each.untyped_storage().nbytes() // each.itemsize
        assert held <= 64 * 6 + 4096
        reach = sum((n - 1) * s for n, s in zip(each.shape, each.stride(), strict=True))
        assert not each.numel() or each.storage_offset() + reach < held
