"""What is alive between two steps of a trace, which of it shares memory, and why training may not be cut there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch

from common.partition.steps import Leaf, Step


@dataclass(frozen=True)
class Position:
    """A place between two steps where a trace can be cut."""

    before: int
    """How many steps run before the cut."""
    live: tuple[int, ...]
    """Steps before it whose values are used behind it, in order."""
    leaves: tuple[Leaf, ...]
    """What crosses of them, in order."""
    overwritten: bool
    """Whether two leaves have memory in common that is written to behind the cut. Their gradients would be wrong:
    apart, neither side knows what the other's memory has become."""


def positions(steps: Sequence[Step]) -> Iterator[Position]:
    """One behind the inputs and one behind each computing step, where all that is alive can cross."""
    last_use = _last_uses(steps)
    inputs = sum(step.kind == "input" for step in steps)
    written = _written_behind(steps)
    alive: list[int] = []
    for before in range(1, len(steps)):
        step = steps[before - 1]
        alive = [each for each in alive if last_use[each] >= before]
        if step.constant:
            continue
        if last_use[before - 1] >= before:
            alive.append(before - 1)
        elif step.kind == "operation" and not _writes_to(step, [steps[each] for each in alive]):
            continue  # a counter or a check: nothing that crosses has changed
        if steps[before].continues:
            continue
        if before >= inputs and alive and all(steps[each].crosses for each in alive):
            leaves = tuple(leaf for each in alive for leaf in steps[each].leaves)
            yield Position(before, tuple(alive), leaves, _overwritten(leaves, written[before]))


def overlap(a: Leaf, b: Leaf) -> bool:
    """Whether two tensors have an element of memory in common."""
    if a.memory is None or b.memory is None or a.memory.storage != b.memory.storage:
        return False
    (first_a, end_a), (first_b, end_b) = extent(a), extent(b)
    size_a, size_b = a.dtype.itemsize, b.dtype.itemsize
    if end_a * size_a <= first_b * size_b or end_b * size_b <= first_a * size_a:
        return False
    return True if size_a != size_b else _elements_meet(a, b)


def extent(leaf: Leaf) -> tuple[int, int]:
    """First element of the memory of a tensor, and the one behind its last."""
    if leaf.memory is None or 0 in leaf.shape:
        return 0, 0
    reach = sum((n - 1) * s for n, s in zip(leaf.shape, leaf.memory.stride, strict=True))
    return leaf.memory.offset, leaf.memory.offset + reach + 1


@lru_cache(maxsize=4096)
def _elements_meet(a: Leaf, b: Leaf) -> bool:
    """Views may interleave without meeting, as the thirds of one projection into q, k and v do."""
    (first_a, end_a), (first_b, end_b) = extent(a), extent(b)
    first = min(first_a, first_b)
    marks = torch.zeros(max(end_a, end_b) - first, dtype=torch.bool)
    for leaf in (a, b):
        if leaf.memory is None:
            return False
        elements = marks.as_strided(leaf.shape, leaf.memory.stride, leaf.memory.offset - first)
        if leaf is b:
            return bool(elements.any())
        elements.fill_(True)
    return False


def _last_uses(steps: Sequence[Step]) -> list[int]:
    """Of each step, the last that uses its value; where a constant uses it, the last that uses that."""
    last = [-1] * len(steps)
    for i in range(len(steps) - 1, -1, -1):
        for taken in steps[i].takes:
            last[taken] = max(last[taken], i)
    return last


def _written_behind(steps: Sequence[Step]) -> list[frozenset[int]]:
    """For each position, the storages that steps behind it write to."""
    written, behind = [frozenset[int]()] * (len(steps) + 1), frozenset[int]()
    for i in range(len(steps) - 1, -1, -1):
        behind |= steps[i].writes
        written[i] = behind
    return written


def _writes_to(step: Step, others: Sequence[Step]) -> bool:
    memories = (leaf.memory for other in others for leaf in other.leaves)
    return any(memory is not None and memory.storage in step.writes for memory in memories)


def _overwritten(leaves: Sequence[Leaf], written: frozenset[int]) -> bool:
    common = [leaf for leaf in leaves if leaf.memory is not None and leaf.memory.storage in written]
    return any(overlap(a, b) and (a.differentiable or b.differentiable) for a, b in combinations(common, 2))
