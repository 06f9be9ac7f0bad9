"""One recorded run as the parts use it: which tensors are needed behind a cut, and which weights on each side."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from common.errors import PartitionError
from common.partition.recording.events import Event, steps_of
from common.partition.recording.journey import packed_route
from common.partition.recording.outcomes import Entry, Fresh, Here, Kept, Many, Opaque, Outcome, Plain, alike
from common.partition.recording.places import Place
from common.partition.steps import Step


@dataclass(frozen=True)
class Crossing:
    """What crosses a cut of a recorded run."""

    calls: int
    """How many lie before it."""
    live: tuple[int, ...]
    """Numbers of the tensors that cross, in order."""
    kept: dict[int, int]
    """For each number of a tensor that crosses, its place there."""
    needed: frozenset[int]
    """Calls before it that are computed again behind it."""


class Variant:
    """A recorded run. Nothing of it ever changes, and it holds no tensors."""

    def __init__(
        self, events: Sequence[Event], inputs: Outcome, entries: Sequence[Entry], firsts: Sequence[int]
    ) -> None:
        self.steps: Sequence[Step] = steps_of(events)
        self.inputs = inputs
        self.entries = tuple(entries)
        self._firsts = tuple(firsts)
        self._numbers = [tuple(event.numbers) for event in events]
        self._first_call = sum(step.kind == "input" for step in self.steps)
        self._places = [event.place for event in events if event.place is not None]
        self.calls = [i for i, event in enumerate(events) if event.place is not None]
        """The step of each call."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Variant":
        return self

    @cached_property
    def _found(self) -> dict[Place, int]:
        return {place: call for call, place in enumerate(self._places)}

    @cached_property
    def _last_use(self) -> list[int]:
        last = [-1] * len(self.steps)
        for i, step in enumerate(self.steps):
            for taken in step.takes:
                last[taken] = i
        return last

    def _live(self, before: int) -> tuple[int, ...]:
        return tuple(i for i in range(before) if self._last_use[i] >= before and not self.steps[i].constant)

    def _can_be_cut(self, before: int) -> bool:
        inside = self._first_call <= before < len(self.steps) and not self.steps[before].continues
        return inside and all(self.steps[i].crosses for i in self._live(before))

    def calls_before(self, before: int) -> int:
        """How many calls are among so many steps."""
        return bisect_left(self.calls, before)

    def steps_before(self, calls: int) -> int:
        """How many steps lie before the cut behind so many calls."""
        return [*self.calls, len(self.steps) - 1][calls] if calls else self._first_call

    def place(self, before: int) -> Place | None:
        """Where the last call before a cut is made; None for the cut behind the inputs.

        Raises:
            PartitionError: the model cannot be cut there.
        """
        if not self._can_be_cut(before):
            raise PartitionError(f"the model cannot be cut behind {before} of its {len(self.steps)} steps")
        return self._places[self.calls_before(before) - 1] if before > self._first_call else None

    def before(self, place: Place | None) -> int | None:
        """How many steps lie before the cut at a place; None where this run cannot be cut there."""
        if place is None:
            return self._first_call if self._can_be_cut(self._first_call) else None
        if place not in self._found:
            return None
        before = self.steps_before(self._found[place] + 1)
        return before if self._can_be_cut(before) else None

    def crossing(self, before: int) -> Crossing:
        """What crosses the cut behind so many steps."""
        live = tuple(number for step in self._live(before) for number in self._numbers[step])
        by_first = {number: place for place, number in enumerate(live)}
        kept = {number: by_first[first] for number, first in enumerate(self._firsts) if first in by_first}
        needed = self._constants_for(range(before, len(self.steps)))
        calls = self.calls_before(before)
        again = frozenset(call for call in range(calls) if self.calls[call] in needed)
        return Crossing(calls, live, kept, again)

    def is_constant(self, call: int, code: int) -> bool:
        """Whether a call of this number is made of weights alone."""
        return call < len(self.calls) and self.steps[self.calls[call]].constant and self.entries[call][0] == code

    def values_before(self, calls: int) -> int:
        """How many values the first calls gave."""
        return sum(_values(outcome) for _, outcome in self.entries[:calls])

    def matches(self, inputs: Outcome, entries: Sequence[Entry]) -> bool:
        """Whether another run has made the same calls, up to where its notes end."""
        own = self.entries
        return (
            len(entries) <= len(own)
            and alike(self.inputs, inputs)
            and all(a[0] == b[0] and (a[1] is b[1] or alike(a[1], b[1])) for a, b in zip(entries, own, strict=False))
        )

    def state(self, befores: Sequence[int]) -> list[set[str]]:
        """Names of the parameters and buffers that each part needs."""
        bounds = [0, *befores, len(self.steps)]
        used = {taken for step in self.steps for taken in step.takes}
        parts = []
        for start, stop in pairwise(bounds):
            run = {i for i in range(start, stop) if not self.steps[i].constant or i not in used}
            run |= self._constants_for(run)
            parts.append({name for i in run for name in self.steps[i].state})
        return parts

    def _constants_for(self, steps: Iterable[int]) -> set[int]:
        needed: set[int] = set()
        waiting = list(steps)
        while waiting:
            for taken in self.steps[waiting.pop()].takes:
                if self.steps[taken].constant and taken not in needed:
                    needed.add(taken)
                    waiting.append(taken)
        return needed

    def route(self, key: str, before: int) -> bytes:
        """The route of the recorded run itself."""
        return route(key, self.inputs, self.entries, self.crossing(before))


def route(key: str, inputs: Outcome, entries: Sequence[Entry], crossing: Crossing) -> bytes:
    """The route of a run that makes the calls of a recorded one."""
    rewrite = _Rewriter(crossing.kept)
    described = rewrite.of(inputs)
    written = []
    for number, (code, outcome) in enumerate(entries[: crossing.calls]):
        crossed = rewrite.of(outcome)
        written.append((code, Here() if number in crossing.needed else crossed))
    return packed_route(key, described, written)


def _values(outcome: Outcome) -> int:
    if isinstance(outcome, Many):
        return sum(map(_values, outcome.items))
    return isinstance(outcome, Plain)


class _Rewriter:
    """Says of each new tensor whether it crosses."""

    def __init__(self, kept: dict[int, int]) -> None:
        self._kept = kept
        self._next = 0

    def of(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Fresh):
            place = self._kept.get(self._next)
            self._next += 1
            return outcome if place is None else Kept(place)
        if isinstance(outcome, Many):
            return Many(outcome.kind, tuple(self.of(each) for each in outcome.items), outcome.keys)
        if isinstance(outcome, Opaque):
            raise PartitionError(f"a call before this cut gives a {outcome.kind}, which cannot cross; cut before it")
        return outcome
