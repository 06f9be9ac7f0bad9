"""``delta``: an activation as its change since its sample was seen last (AQ-SGD, Wang et al. 2022).

Both sides remember what the receiver has of each sample, and both compute it from the same bytes in the same way, so
their memories are equal bit for bit. A sample that is new travels itself, by a milder codec. Changes shrink as
training settles, and so does the error of their codes, while the error of a coded activation would not.

An evaluation neither reads nor changes the memory (its samples are numbered anew): its tensors travel as new ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from common.codec.buffers import whole
from common.codec.chain import Coded, Coder
from common.codec.channels import WHOLE
from common.codec.context import Context, Slot
from common.codec.samples import SampleMemory
from common.codec.values import Params

_ALIGNMENT = 8


class _Split(NamedTuple):
    """The samples of a tensor, new ones and known ones."""

    ids: list[int]
    fresh: list[int]
    """Places in the batch."""
    known: list[int]
    row: int
    """Elements of one sample."""


class Delta:
    """Parameters: number of new samples, number of parameters of their code, these, and those of the changes' code.
    Content: the code of the new samples, filled up to a multiple of 8 bytes, and that of the changes; a part without
    samples is left out.

    Args:
        first: codes samples that are new.
        change: codes changes.
        memory: what the receiver has of each sample.
    """

    def __init__(self, first: Coder, change: Coder, memory: SampleMemory) -> None:
        self._first, self._change, self._memory = first, change, memory

    def encode(self, slot: Slot, values: Tensor, at: Context, key: tuple[int, ...]) -> Coded:
        """Code new samples and changes, and remember what the receiver makes of them."""
        split = self._split(slot, at)
        rows = values.cpu().view(len(split.ids), split.row)
        new, content, new_rows = self._part(self._first, slot, _some(rows, split.fresh), at, (*key, 2))
        known = self._recall(slot, split)
        change = _some(rows, split.known) - known
        params, changes, change = self._part(self._change, slot, change, at, (*key, 3))
        has = self._remember(slot, split, new_rows, known.add_(change), at)
        numbers = (float(len(split.fresh)), float(len(new)), *new, *params)
        return Coded(numbers, torch.cat([_filled(content), changes]), has)

    def nbytes(self, slot: Slot, params: Params, at: Context) -> int:
        """Both parts."""
        split = self._split(slot, at)
        fresh, change = self._read(split, params)
        return _aligned(self._part_bytes(self._first, slot, split, split.fresh, fresh, at)) + self._part_bytes(
            self._change, slot, split, split.known, change, at
        )

    def decode(self, slot: Slot, params: Params, content: Tensor, at: Context) -> Tensor:
        """New samples as they are, and known ones with their change."""
        split = self._split(slot, at)
        fresh, change = self._read(split, params)
        new_rows, known = torch.empty(0, split.row, dtype=slot.dtype), self._recall(slot, split)
        size = self._part_bytes(self._first, slot, split, split.fresh, fresh, at)
        if split.fresh:
            part = _part_slot(slot, len(split.fresh) * split.row)
            new_rows = self._first.decode(part, fresh, content[:size], at).view(len(split.fresh), split.row)
        if split.known:
            part = _part_slot(slot, known.numel())
            known += self._change.decode(part, change, content[_aligned(size) :], at).view_as(known)
        return self._remember(slot, split, new_rows, known, at)

    def state(self) -> dict[str, Tensor]:
        """The memory."""
        return self._memory.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Replaces the memory."""
        self._memory.load_state(state)

    def _split(self, slot: Slot, at: Context) -> _Split:
        ids = _samples(slot, at)
        if not ids:
            return _Split([0], [0], [], slot.elements)
        row = slot.elements // len(ids)
        is_known = [self._memory.has(slot.index, each, row, slot.dtype) for each in ids]
        return _Split(
            ids, [i for i, yes in enumerate(is_known) if not yes], [i for i, yes in enumerate(is_known) if yes], row
        )

    def _recall(self, slot: Slot, split: _Split) -> Tensor:
        """What the receiver has of the known samples."""
        return self._memory.recall(slot.index, [split.ids[i] for i in split.known], split.row, slot.dtype)

    def _remember(self, slot: Slot, split: _Split, fresh: Tensor, known: Tensor, at: Context) -> Tensor:
        """What the receiver has of all samples now, flat, in their order; kept where they are training's."""
        if not split.known or not split.fresh:
            has = fresh if split.fresh else known
        else:
            has = torch.empty(len(split.ids), split.row, dtype=slot.dtype)
            has[split.fresh], has[split.known] = fresh, known
        if _samples(slot, at):
            self._memory.remember(slot.index, split.ids, has)
        return has.reshape(-1)

    @staticmethod
    def _part(
        coder: Coder, slot: Slot, rows: Tensor, at: Context, key: tuple[int, ...]
    ) -> tuple[Params, Tensor, Tensor]:
        """Parameters, content, and what the receiver makes of it."""
        if not len(rows):
            return (), torch.empty(0, dtype=torch.uint8), rows
        part = _part_slot(slot, rows.numel())
        coded = coder.encode(part, rows.reshape(-1), at, key)
        content = coded.content.cpu()
        return coded.params, content, coder.decode(part, coded.params, content, at).view_as(rows)

    @staticmethod
    def _part_bytes(coder: Coder, slot: Slot, split: _Split, places: list[int], params: Params, at: Context) -> int:
        if not places:
            if params:
                raise ValueError(params)
            return 0
        return coder.nbytes(_part_slot(slot, len(places) * split.row), params, at)

    @staticmethod
    def _read(split: _Split, params: Params) -> tuple[Params, Params]:
        """Parameters of the new samples' code and of the changes'."""
        first, second, *rest = params
        whole(first, len(split.fresh), len(split.fresh))  # else the two memories are not equal
        size = whole(second, 0, len(rest))
        return tuple(rest[:size]), tuple(rest[size:])


def _samples(slot: Slot, at: Context) -> list[int]:
    """Ids of the samples that a tensor of training consists of, one behind the other in memory; else none."""
    ids: list[int] = [] if at.ids is None or not at.training else at.ids.tolist()
    splits = bool(ids) and slot.elements > 0 and slot.shape[0] % len(ids) == 0
    # float64 is no activation of a network that travels often; it is not worth twice the memory.
    return ids if splits and slot.dtype is not torch.float64 else []


def _part_slot(slot: Slot, elements: int) -> Slot:
    """Some samples of a tensor, as a tensor."""
    channels = slot.channels if slot.channels.fit(elements) else WHOLE
    return Slot(slot.index, (elements,), slot.dtype, elements, channels)


def _some(rows: Tensor, places: list[int]) -> Tensor:
    return rows if len(places) == len(rows) else rows[places]


def _filled(content: Tensor) -> Tensor:
    filled = content.new_zeros(_aligned(len(content)))
    filled[: len(content)] = content
    return filled


def _aligned(nbytes: int) -> int:
    return nbytes + -nbytes % _ALIGNMENT
