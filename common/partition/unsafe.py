"""Which parameters and buffers two sides of a cut would both use."""

from collections.abc import Sequence

from torch import Tensor, nn

from common.partition.steps import Step, state_of, state_used


class Sharing:
    """First and last use of each parameter and buffer in a trace. Tied ones are one, by whatever names.

    Buffers that no step writes to are left out: two copies of what never changes are as good as one.
    """

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        self._state = state_of(model)
        self._steps = steps
        self._parameters = {id(each) for each in model.parameters()}
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._names: dict[int, set[str]] = {}
        written = frozenset[int]().union(*(step.writes for step in steps))
        for i, step in enumerate(steps):
            if step.constant:
                continue
            for name in state_used(steps, i):
                value = self._state.get(name)
                if value is None or (id(value) not in self._parameters and _storage(value) not in written):
                    continue
                self._first.setdefault(id(value), i)
                self._last[id(value)] = i
                self._names.setdefault(id(value), set()).add(name)

    def both_sides(self, before: int) -> list[str]:
        """Names of what steps before and behind a position use."""
        shared = (key for key, first in self._first.items() if first < before <= self._last[key])
        return sorted(set[str]().union(*(self._names[key] for key in shared)))

    def parameters_before(self) -> list[int]:
        """Number of elements of the parameters that steps before each position use."""
        sizes = {id(value): value.numel() for value in self._state.values() if id(value) in self._parameters}
        starts = [0] * (len(self._steps) + 1)
        for key, first in self._first.items():
            starts[first + 1] += sizes.get(key, 0)
        totals, total = [], 0
        for start in starts:
            total += start
            totals.append(total)
        return totals


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
