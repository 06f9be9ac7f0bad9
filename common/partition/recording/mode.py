"""The mode that records: it lets every torch call happen, and notes what depends on what."""

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.recording.calls import Call, call_of
from common.partition.recording.events import Event, Names, signature
from common.partition.recording.inputs import locals_of, noted
from common.partition.recording.nested import reachable_tensors, tensor_slots, tensors_in
from common.partition.recording.notes import Notes
from common.partition.recording.outcomes import Fresh, Here, Many, Opaque, Outcome, Plain, Same
from common.partition.recording.outside import Outside, storage_of
from common.partition.recording.places import Places
from common.partition.recording.seams import SeamlessMode


class Recorder(SeamlessMode):
    """Records one run. Keeps all its tensors, so that each can be told from all others by its id."""

    def __init__(self, model: nn.Module, places: Places, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self._places = places
        self._locals = locals_of(args, kwargs)
        self._outside = Outside(model, self._locals.values())
        self._names = Names()
        self.events: list[Event] = []
        self.notes = Notes(on_cpu=True)
        self.firsts: list[int] = []
        """For each new tensor of the notes, the number under which it was there first."""
        self._asked: dict[int, int] = {}
        """For each tensor of a query, how many events there were at the first."""
        self._own_slots = dict(tensor_slots(list(self._locals.values()), set()))
        self._number: dict[int, int] = {}
        self._owner: dict[int, int] = {}
        self._used: set[tuple[int, int]] = set()
        """Events, and the numbers of their tensors, that were taken by later ones."""
        self._writer: dict[int, int] = {}
        self._requires_grad: dict[int, bool] = {}
        self._sharing: dict[int, list[Tensor]] = {}
        self.inputs = noted(args, kwargs, self.notes)
        for tensor in tensors_in((tuple(args), dict(kwargs))):
            if id(tensor) not in self._number:
                self._number_new(tensor)
            event = Event("input", self._names.unique("input"), "input")
            self._own(event, tensor)
            self.events.append(event)

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        call = call_of(func)
        if call.query:
            for each in tensors_in(args):
                self._asked.setdefault(id(each), len(self.events))
            return func(*args, **kwargs)
        taken = list({id(each): each for each in tensors_in((args, kwargs))}.values())
        for each in taken:
            self._admit(each, call.short)
        before = _Before(taken, self._outside)
        result = func(*args, **kwargs)
        if call.replaces:
            raise PartitionError(
                f"{call.name}{self._where()} exchanges the memory of a tensor, which hides what it was"
            )
        self._add(call, args, kwargs, taken, result, before)
        return result

    def finish(self, outputs: Any) -> None:
        """Note what the model returned."""
        event = Event("output", self._names.unique("output"), "output")
        event.takes = {i for i, each in enumerate(self.events) if each.lasting}
        for tensor in reachable_tensors(outputs, {id(each) for each in self._locals.values()}):
            self._admit(tensor, "the output")
            self._take(event, tensor)
        self.events.append(event)
        self._drop_unused()
        self._bind_updates()

    def _drop_unused(self) -> None:
        """Of what an event wrote to let only that cross which is used behind it: views, as a rule, are gone by then."""
        for i, event in enumerate(self.events):
            used = [(i, number) in self._used for number in event.numbers]
            if any(used) and len(event.leaves) == len(used):
                event.numbers, event.leaves = list(compress(event.numbers, used)), list(compress(event.leaves, used))

    def _bind_updates(self) -> None:
        """Forbid cuts behind which a cache is updated that is asked for its size before: the head has an old one."""
        for slot, tensor in tensor_slots(list(self._locals.values()), set()):
            before = self._own_slots.get(slot)
            updated = self._owner.get(id(tensor))
            if before is not None and before is not tensor and updated is not None:
                asked = self._asked.get(id(before), updated)
                for event in self.events[asked + 1 : updated + 1]:
                    event.continues = True

    def _add(
        self,
        call: Call,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        taken: list[Tensor],
        result: Any,
        before: "_Before",
    ) -> None:
        known = len(self.notes.tensors)
        outcome = self.notes.add(call, result, args, kwargs)
        label = signature(call.name, args, kwargs, outcome)
        event = Event("operation", self._names.unique(call.short), label, self._places.modules)
        event.place = self._places.call(call.code)
        for tensor in taken:
            self._take(event, tensor)
        made = [each for each in (ref() for ref in self.notes.tensors[known:]) if each is not None]
        for tensor in made:
            self._number_new(tensor)
        written = before.written()
        event.writes = {storage_of(each) for each in written}
        event.touches |= {storage_of(each) for each in made}
        event.lasting = _has(outcome, Opaque)
        event.crosses = not (call.reshapes or event.lasting)
        event.settled = isinstance(outcome, Fresh | Same | Many | Here) and not (
            written
            or before.drew()
            or isinstance(kwargs.get("generator"), torch.Generator)
            or _has(outcome, Plain | Opaque)
            or any(map(self._outside.differs, taken))
        )
        items = made if len(made) > 1 else []
        changed = {id(each): each for each in (*tensors_in(result), *written, *self._turned(event.writes))}
        for tensor in changed.values():
            if id(tensor) in self._number and not any(tensor is each for each in items):
                self._own(event, tensor)
        for storage in event.writes:
            self._writer[storage] = len(self.events)
        self.events.append(event)
        whole = len(self.events) - 1
        for tensor in items:
            self._add_item(whole, event, tensor)

    def _add_item(self, whole: int, event: Event, tensor: Tensor) -> None:
        """Of several tensors that a call gives, each can cross without the others."""
        item = Event("operation", self._names.unique(event.name), "item", event.modules, continues=True)
        item.takes = {whole}
        item.settled = event.settled
        self._own(item, tensor)
        self.events.append(item)

    def _number_new(self, tensor: Tensor) -> None:
        self.firsts.append(self._number.setdefault(id(tensor), len(self.firsts)))
        self._sharing.setdefault(storage_of(tensor), []).append(tensor)

    def _own(self, event: Event, tensor: Tensor) -> None:
        """From here on the tensor is this event's, with what it is like now."""
        self._owner[id(tensor)] = len(self.events)
        self._requires_grad[id(tensor)] = tensor.requires_grad
        event.add_leaf(tensor, self._number[id(tensor)])

    def _take(self, event: Event, tensor: Tensor) -> None:
        if id(tensor) in self._number and not self._outside.is_state(tensor):
            event.takes.add(self._owner[id(tensor)])
            self._used.add((self._owner[id(tensor)], self._number[id(tensor)]))
            return
        if self._outside.is_state(tensor):
            event.state.add(self._outside.name(tensor, event.modules))
        storage = storage_of(tensor)
        event.touches.add(storage)
        writer = self._writer.get(storage)
        if writer is not None:
            # Each part reads its own tensor here, so what was written to it would be missing behind a cut.
            self.events[writer].crosses = False
            event.takes.add(writer)

    def _turned(self, storages: set[int]) -> list[Tensor]:
        """Other views of what was written to, that have become differentiable by it."""
        return [
            each
            for storage in storages
            for each in self._sharing.get(storage, [])
            if each.requires_grad != self._requires_grad.get(id(each), each.requires_grad)
        ]

    def _admit(self, tensor: Tensor, what: str) -> None:
        if id(tensor) in self._number or self._outside.is_state(tensor):
            return
        if not self._outside.has(tensor) or storage_of(tensor) in self._sharing:
            raise PartitionError(
                f"{what}{self._where()} takes a tensor of shape {tuple(tensor.shape)} that no torch call was seen to "
                "make: compiled code, vmap, or a constructor such as torch.Tensor or nn.Parameter made it in the "
                "forward pass. Such a model cannot be cut by recording"
            )

    def _where(self) -> str:
        modules = self._places.modules
        return f" in {modules[-1]}" if modules else ""


class _Before:
    """What there was before a call, to see what it changed."""

    def __init__(self, taken: Sequence[Tensor], outside: Outside) -> None:
        self._taken = taken
        self._versions = [_version(each) for each in taken]
        # Batch norm writes to its statistics without leaving a mark on their version.
        self._values = [each.detach().clone() if id(each) in outside.buffers else None for each in taken]
        self._random = _random_state()

    def written(self) -> list[Tensor]:
        """The arguments that were written to."""
        compared = zip(self._taken, self._versions, self._values, strict=True)
        return [
            each
            for each, version, value in compared
            if _version(each) != version or (value is not None and not _equal(value, each))
        ]

    def drew(self) -> bool:
        """Whether random numbers were drawn."""
        return any(not torch.equal(a, b) for a, b in zip(self._random, _random_state(), strict=True))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(
        torch.allclose(a, b, 0, 0, equal_nan=True) if a.is_floating_point() else torch.equal(a, b)
    )


def _random_state() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return states


def _has(outcome: Outcome, kinds: Any) -> bool:
    if isinstance(outcome, Many):
        return any(_has(each, kinds) for each in outcome.items)
    return isinstance(outcome, kinds)
