"""A live set as it travels: each memory once, and for each tensor where it lies in it.

What shared memory at the head shares it at the tail, so an in-place operation behind the cut reaches all that it
would reach in the whole model; and a tensor has the strides there that it had here, by which kernels round.

Lengths and places are in elements.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from common.errors import PartitionError, ProtocolError
from common.partition.liveness import extent
from common.partition.steps import Leaf
from common.wire.structs import View

_ALIGNMENT = 64  # bytes; kernels choose their path by it, and both sides' memory begins at a multiple
_SPREAD = 64
_SLACK = 1 << 12
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 1 << 40


def pack(values: Sequence[Tensor], groups: Sequence[Sequence[int]] = ()) -> tuple[tuple[Tensor, ...], tuple[View, ...]]:
    """The storages that carry ``values``, contiguous each, and where the values lie in them.

    Args:
        values: the live tensors; nothing is copied of those that are dense in memory, in whatever order.
        groups: indices of those that have elements of memory in common. Each group that really has one storage
            travels as the memory from its first element to its last; every other tensor alone.

    Returns:
        Storages and views; no views where the storages are the values, as they mostly are.

    Raises:
        PartitionError: tensors of different dtypes over the same memory.
    """
    values = [each.detach() for each in values]
    together = {i: members for members in _sharing(values, groups) for i in members}
    if not together and all(map(_is_row_major, values)):
        return tuple(values), ()
    storages: list[Tensor] = []
    views: dict[int, View] = {}
    for i, value in enumerate(values):
        if i in views:
            continue
        number, members = len(storages), together.get(i, (i,))
        if len(members) > 1:
            storage, offsets = _pack_together({each: values[each] for each in members})
            for each, offset in offsets.items():
                views[each] = View(number, offset, tuple(values[each].shape), values[each].stride())
        else:
            storage, offset, stride = _pack_alone(value)
            views[i] = View(number, offset, tuple(value.shape), stride)
        storages.append(storage)
    return tuple(storages), tuple(views[i] for i in range(len(values)))


def unpack(storages: Sequence[Tensor], views: Sequence[View]) -> tuple[Tensor, ...]:
    """The tensors that `pack` was given: same values, same strides, and what shared memory shares it again.

    Raises:
        ProtocolError: views that `pack` does not make; nothing has been allocated for them.
    """
    check(views, [each.numel() for each in storages])
    return tuple(_unpack_one(storages[view.storage], view) for view in views) if views else tuple(storages)


def check(views: Sequence[View], elements: Sequence[int]) -> None:
    """Check that views can lie in storages of so many elements.

    Raises:
        ProtocolError: they cannot, or would take far more memory than was sent.
    """
    uses = Counter(view.storage for view in views)
    if views and uses.keys() != set(range(len(elements))):
        raise ProtocolError(f"views of storages {sorted(uses)} came with {len(elements)} storages")
    for view in views:
        _check_numbers(view)
        stored = elements[view.storage]
        if _fits(view, stored):
            continue
        of_its_own = stored == prod(_once(view.size, view.stride)) and uses[view.storage] == 1
        if not of_its_own or _end(view) > _SPREAD * stored + _SLACK:
            raise ProtocolError(
                f"a view of size {list(view.size)}, stride {list(view.stride)} and offset {view.offset} came "
                f"for a storage of {stored} elements"
            )


def most_bytes(leaves: Sequence[Leaf], groups: Sequence[Sequence[int]]) -> int:
    """Bytes that `pack` makes of such tensors at most, with the memory between those of a group.

    Of a batch of another size it is in proportion, but for the gap behind a group's last sample: twice covers it.
    """
    gaps = 0
    for group in groups:
        bounds = [extent(leaves[i]) for i in group]
        length = max(end for _, end in bounds) - min(first for first, _ in bounds)
        gaps += 2 * length * max(leaves[i].dtype.itemsize for i in group) + _ALIGNMENT
    return sum(leaf.nbytes for leaf in leaves) + gaps


def _sharing(values: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """Of each group, those that have a storage in common."""
    for group in groups:
        by_storage: dict[int, list[int]] = {}
        for i in group:
            if values[i].numel():
                by_storage.setdefault(values[i].untyped_storage().data_ptr(), []).append(i)
        yield from (tuple(members) for members in by_storage.values() if len(members) > 1)


def _pack_alone(value: Tensor) -> tuple[Tensor, int, tuple[int, ...]]:
    """Storage of one tensor; its offset and strides in it."""
    if _is_row_major(value):
        return value, 0, value.stride()
    size, stride = tuple(value.shape), value.stride()
    order = _memory_order(stride)
    elements = value.as_strided(_once(size, stride), stride).permute(order)
    reach = _reach(size, stride)
    if elements.is_contiguous():
        # Dimensions of size 1 may have any stride; as bytes, storages are looked at without.
        return elements.as_strided(elements.shape, _row_major(elements.shape)), 0, stride
    if reach <= elements.numel():  # they overlap one another, as sliding windows do
        storage, offsets = _pack_together({0: value})
        return storage, offsets[0], stride
    elements = elements.contiguous()
    lead = _lead(value)
    if lead + reach <= _SPREAD * elements.numel() + _SLACK:
        return elements, lead, stride
    # So thin that its gaps cannot be made again within the limit: they are closed.
    closed = dict(zip(order, elements.stride(), strict=True))
    return (
        elements,
        0,
        tuple(closed[i] if s or n <= 1 else 0 for i, (n, s) in enumerate(zip(size, stride, strict=True))),
    )


def _pack_together(values: Mapping[int, Tensor]) -> tuple[Tensor, dict[int, int]]:
    """The memory of tensors over one storage, and the offset of each in it."""
    if len({each.dtype for each in values.values()}) > 1:
        told = ", ".join(f"tensor {i} is {each.dtype}" for i, each in values.items())
        raise PartitionError(f"tensors of different dtypes share memory at this cut ({told}); cut elsewhere")
    lowest = min(values.values(), key=Tensor.storage_offset)
    lead = _lead(lowest)
    places = {i: int(each.storage_offset()) - int(lowest.storage_offset()) for i, each in values.items()}
    offsets = {i: lead + place for i, place in places.items()}
    length = max(places[i] + _reach(each.shape, each.stride()) for i, each in values.items())
    if lead == 0 and any(_is_dense(each) and each.numel() == length for each in values.values()):
        return lowest.as_strided((length,), (1,)), offsets
    # What lies between the tensors may be anything, NaN too: one of their own numbers goes in its place, which
    # changes no codec's range.
    memory = lowest.as_strided((1,), (1,)).repeat(lead + length)
    for i, each in values.items():
        once = _once(each.shape, each.stride())
        memory.as_strided(once, each.stride(), offsets[i]).copy_(each.as_strided(once, each.stride()))
    return memory, offsets


def _unpack_one(storage: Tensor, view: View) -> Tensor:
    flat = storage.reshape(-1)
    if not _fits(view, flat.numel()):
        order = _memory_order(view.stride)
        once = _once(view.size, view.stride)
        flat = torch.empty(_end(view), dtype=storage.dtype, device=storage.device)
        elements = storage.reshape([once[i] for i in order])
        flat.as_strided(once, view.stride, view.offset).permute(order).copy_(elements)
    return flat.as_strided(view.size, view.stride, flat.storage_offset() + view.offset)


def _check_numbers(view: View) -> None:
    numbers = (*view.size, *view.stride, view.offset)
    if (
        len(view.size) != len(view.stride)
        or len(view.size) > _MAX_DIMENSIONS
        or not 0 <= min(numbers) <= max(numbers) <= _MAX_ELEMENTS
        or prod(max(n, 1) for n in view.size) > _MAX_ELEMENTS
    ):
        raise ProtocolError(
            f"a view of size {list(view.size[:_MAX_DIMENSIONS])}, stride {list(view.stride[:_MAX_DIMENSIONS])} and "
            f"offset {view.offset} came, which no tensor has"
        )


def _fits(view: View, stored: int) -> bool:
    """Whether the storage is the view's memory; else it has the view's elements only, packed."""
    return _end(view) <= stored


def _end(view: View) -> int:
    return view.offset + _reach(view.size, view.stride)


def _reach(size: Sequence[int], stride: Sequence[int]) -> int:
    """Length of the memory from a tensor's first element to its last."""
    return 0 if 0 in size else 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))


def _once(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Sizes without repetition: an expanded dimension has its elements once."""
    return tuple(n if s else min(n, 1) for n, s in zip(size, stride, strict=True))


def _memory_order(stride: Sequence[int]) -> list[int]:
    """Dimensions from the widest stride to the narrowest."""
    return sorted(range(len(stride)), key=lambda i: -stride[i])


def _is_dense(value: Tensor) -> bool:
    """Whether a tensor takes its memory from first to last element without gap, in some order."""
    return value.permute(_memory_order(value.stride())).is_contiguous()


def _is_row_major(value: Tensor) -> bool:
    # `is_contiguous` would overlook the strides of dimensions of size 1, by which some kernels choose their format.
    return value.stride() == _row_major(value.shape)


@lru_cache(maxsize=1024)
def _row_major(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(max(n, 1) for n in size[i + 1 :]) for i in range(len(size)))


def _lead(value: Tensor) -> int:
    """How far behind a multiple of the alignment the tensor begins."""
    return value.data_ptr() % _ALIGNMENT // value.itemsize
