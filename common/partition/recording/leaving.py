"""What a part sends behind its cut: the tensors that the recorded runs say are needed, or all that may be."""

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import PartitionError
from common.partition.recording.ghosts import Ghost
from common.partition.recording.journey import packed
from common.partition.recording.notes import Notes
from common.partition.recording.outcomes import Entry, Outcome
from common.partition.recording.places import Place
from common.partition.recording.variant import Crossing, Variant, route

_MOST_ROUTES = 4


@dataclass(frozen=True)
class _Known:
    """A run that this part has sent before; runs alike are sent alike."""

    inputs: Outcome
    entries: list[Entry]
    crossing: Crossing
    route: bytes


class Leaving:
    """The cut at the end of a part, in one mode."""

    def __init__(self, key: str, place: Place | None, variants: Sequence[Variant]) -> None:
        self.key = key
        self.place = place
        """Of the last call before the cut; None for the cut behind the inputs."""
        self._crossings = [
            (variant, variant.crossing(before)) for variant in variants if (before := variant.before(place)) is not None
        ]
        self._known: list[_Known] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Leaving":
        copy = Leaving.__new__(Leaving)
        copy.key, copy.place, copy._crossings, copy._known = self.key, self.place, self._crossings, []
        return copy

    def parcel(self, inputs: Outcome, notes: Notes, soft: set[int]) -> tuple[Tensor, ...]:
        """The tensors that cross, and the journey.

        Their number tells whether these are the recorded run's. What is known of those, such as which of them have
        gradients and share memory, is not true of others.

        Args:
            inputs: the arguments of the run.
            notes: its calls.
            soft: of these the calls whose results are not here, but can be computed from weights behind the cut.
        """
        known = self._find(inputs, notes)
        if known is not None:
            live = [notes.tensors[number]() for number in known.crossing.live]
            if all(each is not None and type(each) is not Ghost for each in live):
                return (*(each for each in live if each is not None), packed(known.route, notes.numbers, notes.values))
        return self._cautious(inputs, notes, soft)

    def _find(self, inputs: Outcome, notes: Notes) -> _Known | None:
        for known in self._known:
            if known.entries == notes.entries and known.inputs == inputs:
                return known
        for variant, crossing in self._crossings:
            if crossing.calls == len(notes.entries) and variant.matches(inputs, notes.entries):
                made = route(self.key, inputs, notes.entries, crossing)
                self._known.insert(0, _Known(inputs, notes.entries, crossing, made))
                del self._known[_MOST_ROUTES:]
                return self._known[0]
        return None

    def _cautious(self, inputs: Outcome, notes: Notes, soft: set[int]) -> tuple[Tensor, ...]:
        """Send whatever the model's Python may still use; never as many tensors as a recorded run, see `parcel`."""
        live: list[Tensor] = []
        kept: dict[int, int] = {}
        places: dict[int, int] = {}
        for number, (tensor, count) in enumerate(_counts(notes.tensors)):
            # What only autograd still keeps, no code behind the cut can get hold of.
            if tensor is None or type(tensor) is Ghost or (count < _ONE and id(tensor) not in places):
                continue
            if tensor.layout is not torch.strided or tensor.is_nested:
                raise PartitionError(f"a {tensor.layout} tensor is in use at the cut, which cannot cross")
            if id(tensor) not in places:
                places[id(tensor)] = len(live)
                live.append(tensor)
            kept[number] = places[id(tensor)]
        if not live:
            raise PartitionError("nothing that was computed is in use at the cut")
        while any(len(live) == len(crossing.live) for _, crossing in self._crossings):
            live.append(live[0].new_empty(0))
        crossing = Crossing(len(notes.entries), (), kept, frozenset(soft))
        return (*live, packed(route(self.key, inputs, notes.entries, crossing), notes.numbers, notes.values))


def _counts(references: Sequence[Callable[[], Tensor | None]]) -> Iterator[tuple[Tensor | None, int]]:
    """Tensors, and how often Python refers to each; torch's own reference, while it holds the tensor, is left out."""
    for reference in references:
        tensor = reference()
        if tensor is None:
            yield None, 0
        else:
            yield tensor, sys.getrefcount(tensor) - (tensor._use_count() > 1)  # type: ignore[attr-defined]


def _count_of_one() -> int:
    tensors = [torch.empty(0)]
    return next(count for _, count in _counts([weakref.ref(tensors[0])]))


_ONE = _count_of_one()
