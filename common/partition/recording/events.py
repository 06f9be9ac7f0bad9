"""What a recording notes of each call, and the steps that it becomes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from common.partition.recording.outcomes import DTYPES, Many, Nothing, Opaque, Outcome, Plain
from common.partition.recording.outside import storage_of
from common.partition.recording.places import Place
from common.partition.steps import Kind, Leaf, Memory, Step


@dataclass
class Event:
    """A call, an input, or the output of the model."""

    kind: Kind
    name: str
    label: str
    modules: tuple[str, ...] = ()
    place: Place | None = None
    takes: set[int] = field(default_factory=set)
    state: set[str] = field(default_factory=set)
    numbers: list[int] = field(default_factory=list)
    """Of the tensors of the leaves."""
    leaves: list[Leaf] = field(default_factory=list)
    crosses: bool = True
    writes: set[int] = field(default_factory=set)
    touches: set[int] = field(default_factory=set)
    """Storages of its results, and of the state that it uses."""
    lasting: bool = False
    """Whether it gave an object that cannot cross and that lives on, as far as anyone can tell."""
    continues: bool = False
    settled: bool = False
    """Whether nothing but the steps that it takes may differ from run to run."""

    def add_leaf(self, tensor: Tensor, number: int) -> None:
        """One more tensor that would cross."""
        self.numbers.append(number)
        plain = tensor.layout is torch.strided and not tensor.is_nested and tensor.dtype in DTYPES
        if not plain:
            self.crosses = False
            return
        self.leaves.append(leaf_of(tensor))


def leaf_of(tensor: Tensor) -> Leaf:
    """A strided tensor as it would cross."""
    memory = Memory(storage_of(tensor), int(tensor.storage_offset()), tensor.stride())
    return Leaf(tuple(tensor.shape), tensor.dtype, memory, tensor.requires_grad)


def steps_of(events: Sequence[Event]) -> list[Step]:
    """The steps; which of them are constant shows only when all is known that was ever written to."""
    written: set[int] = set().union(*(event.writes for event in events))
    layers = _layers(events)
    steps: list[Step] = []
    for event in events:
        constant = (
            event.settled and event.touches.isdisjoint(written) and all(steps[taken].constant for taken in event.takes)
        )
        steps.append(
            Step(
                name=event.name,
                kind=event.kind,
                label=event.label,
                modules=event.modules,
                layer=event.modules[-1] if event.place is not None and event.place[:2] in layers else "",
                takes=tuple(sorted(event.takes)),
                state=tuple(sorted(event.state)),
                leaves=tuple(event.leaves),
                crosses=event.crosses,
                writes=frozenset(event.writes),
                continues=event.continues,
                constant=constant,
            )
        )
    return steps


def _layers(events: Sequence[Event]) -> set[tuple[str, int]]:
    """Visits of modules in which there is one call and no other module."""
    calls = Counter(event.place[:2] for event in events if event.place is not None)
    around = {path for event in events for path in event.modules[:-1]}
    return {visit for visit, count in calls.items() if count == 1 and visit[0] and visit[0] not in around}


class Names:
    """Gives each step a name of its own: ``conv2d``, ``conv2d_1``."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._given: set[str] = set()

    def unique(self, wish: str) -> str:
        """A name that was not given before."""
        name = wish = wish.strip("_").replace(".", "_") or "step"
        while name in self._given:
            self._counts[wish] = self._counts.get(wish, 0) + 1
            name = f"{wish}_{self._counts[wish]}"
        self._given.add(name)
        return name


def signature(name: str, args: Iterable[Any], kwargs: dict[str, Any], outcome: Outcome) -> str:
    """What is called, with what kinds of arguments, and what it gives."""
    given = [_kind(each) for each in args] + [f"{key}={_kind(each)}" for key, each in kwargs.items()]
    return f"{name}({', '.join(given)}) -> {_result(outcome)}"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_kind, value))}]"
    return "None" if value is None else type(value).__name__


def _result(outcome: Outcome) -> str:
    if isinstance(outcome, Many):
        return f"[{', '.join(map(_result, outcome.items))}]"
    return {Plain: "value", Nothing: "None", Opaque: "object"}.get(type(outcome), "tensor")
