"""What a receiver has of each sample: rows by id, in one block of memory for each tensor of a message."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.codec.limit import MemoryLimit

_FIRST_ROWS = 64


@dataclass
class _Rows:
    """Of one tensor: the row of each sample, all of one length and dtype."""

    rows: Tensor
    places: dict[int, int] = field(default_factory=dict)


class SampleMemory:
    """Remembers the last row of each sample and tensor.

    Rows of another length or dtype than before (where sizes depend on the data) are new ones.

    Args:
        limit: bounds the memory.
        samples: how many there will be; memory for all of them is set aside at once, and taken as it is written to.
    """

    def __init__(self, limit: MemoryLimit, samples: int = 0) -> None:
        self._limit, self._samples = limit, samples
        self._tensors: dict[tuple[int, int, torch.dtype], _Rows] = {}

    def has(self, index: int, sample: int, length: int, dtype: torch.dtype) -> bool:
        """Whether this is remembered of the sample."""
        found = self._tensors.get((index, length, dtype))
        return found is not None and sample in found.places

    def recall(self, index: int, samples: list[int], length: int, dtype: torch.dtype) -> Tensor:
        """The rows (samples, length); all must be there."""
        if not samples:
            return torch.empty(0, length, dtype=dtype)
        found = self._tensors[index, length, dtype]
        return found.rows.index_select(0, torch.tensor([found.places[each] for each in samples]))

    def remember(self, index: int, samples: list[int], rows: Tensor) -> None:
        """Keep the rows. Of a sample that comes twice the last one counts."""
        key = (index, rows.shape[1], rows.dtype)
        last = {sample: row for row, sample in enumerate(samples)}
        found = self._tensors.get(key) or _Rows(rows.new_empty(0, rows.shape[1]))
        new = [sample for sample in last if sample not in found.places]
        self._grow(key, found, len(found.places) + len(new))
        for sample in new:
            found.places[sample] = len(found.places)
        places = torch.tensor([found.places[sample] for sample in last])
        rows = rows if len(last) == len(samples) else rows[list(last.values())]
        found.rows.index_copy_(0, places, rows)

    def state(self) -> dict[str, Tensor]:
        """The rows, and whose they are, under names that say which tensor they are of."""
        state = {}
        for (index, length, dtype), found in self._tensors.items():
            name = f"{index}/{length}/{str(dtype).removeprefix('torch.')}"
            state[f"{name}/ids"] = torch.tensor(list(found.places), dtype=torch.int64)
            state[f"{name}/rows"] = found.rows[: len(found.places)].clone()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Replaces all rows."""
        self._tensors = {}
        for name, ids in state.items():
            if name.endswith("/ids"):
                rows = state[f"{name.removesuffix('ids')}rows"]
                self.remember(int(name.split("/")[0]), ids.tolist(), rows)

    def _grow(self, key: tuple[int, int, torch.dtype], found: _Rows, rows: int) -> None:
        """Make room for so many rows."""
        if rows <= len(found.rows):
            return
        length = found.rows.shape[1]
        room = max(rows, self._samples, 2 * len(found.rows), _FIRST_ROWS)
        others = sum(each.rows.nbytes for other, each in self._tensors.items() if other != key)
        row_bytes = length * found.rows.itemsize
        if others + room * row_bytes > self._limit.nbytes:
            room = rows  # no more than must be
        self._limit.check(others + room * row_bytes)
        grown = found.rows.new_empty(room, length)
        grown[: len(found.rows)] = found.rows
        found.rows = grown
        self._tensors[key] = found
