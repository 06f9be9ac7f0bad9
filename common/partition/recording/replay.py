"""The mode that a part runs in: calls before its first cut are left out, and its last cut ends the run."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.liveness import overlap
from common.partition.recording.calls import CALLS, Call, call_of, folded
from common.partition.recording.events import leaf_of
from common.partition.recording.ghosts import Ghost, ghost_of, ghostly, refuse
from common.partition.recording.hosts import Host
from common.partition.recording.leaving import Leaving
from common.partition.recording.nested import tensors_in
from common.partition.recording.notes import Notes
from common.partition.recording.outcomes import Here, Outcome
from common.partition.recording.outside import storage_of
from common.partition.recording.program import Given, Program
from common.partition.recording.seams import SeamlessMode
from common.partition.recording.variant import Variant

_OTHER_NUMBERS = (
    "the calls before the cut were given other sizes or positions on the other side than here: what each side has of "
    "its own, such as a cache, differs, or is read before the cut and changed behind it; cut behind where it changes"
)


class CutReached(BaseException):
    """Ends a part's run. No `Exception`: the model must not catch it, but its context managers must be left."""


class Replay(SeamlessMode):
    """One run of a part."""

    parcel: tuple[Tensor, ...] | None = None
    """What crosses the part's last cut, once it is reached."""

    def __init__(self, host: Host, variants: Sequence[Variant], on_cpu: bool) -> None:
        super().__init__()
        self._host = host
        self._variants = variants
        self._count = 0
        self._results: list[Any] = []
        self._codes: list[int] = []
        self._elided = 0
        self._numbers = 0
        self._received: set[int] = set()
        self._shared: list[Tensor] = []
        """Of what was received, that which shares memory."""
        self._stale: dict[int, Tensor] = {}
        self._leaving: Leaving | None = None
        self._passed = False
        self._reached = False
        self._inputs: Outcome | None = None
        self._soft: set[int] = set()
        self.notes = Notes(on_cpu)

    def skip(self, program: Program, given: Given, tensors: Sequence[Tensor]) -> None:
        """Leave out the calls that were made before."""
        self._results, self._codes, self._elided = program.results, program.codes, len(program.codes)
        self._given = given
        self._received = set(map(id, tensors))
        storages = Counter(map(storage_of, tensors))
        self._shared = [each for each in tensors if storages[storage_of(each)] > 1]

    def stop(self, leaving: Leaving, inputs: Outcome) -> None:
        """Run no further than to a cut."""
        self._leaving, self._inputs = leaving, inputs
        self._passed = self._reached = leaving.place is None

    @property
    def leaving(self) -> bool:
        """Whether the run ends at a cut."""
        return self._leaving is not None

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        call = CALLS.get(func) or call_of(func)
        if call.query:
            return func(*args, **kwargs) if kwargs else func(*args)
        if self._reached:
            self._end()
        if kwargs is None:
            kwargs = {}
        number = self._count
        if number < self._elided:
            result = self._left_out(number, call, func, args, kwargs)
            self._numbers = folded(folded(self._numbers, args), kwargs.values())
            if number + 1 == self._elided and self._numbers != self._given.numbers:
                raise PartitionError(_OTHER_NUMBERS)
        elif ghostly(args) or (kwargs and ghostly(kwargs.values())):
            result = self._soften(number, call, func, args, kwargs)
        else:
            if self._stale:
                self._refuse_stale(call, args, kwargs)
            if self._shared and (target := _target(call, args, kwargs)) is not None:
                self._refuse_torn(call, target)
            result = func(*args, **kwargs)
        self._count = number + 1
        if self._leaving is not None:
            self.notes.add(call, result, args, kwargs)
            place = self._leaving.place
            if place is not None and place.code == call.code and self._host.places.call(call.code) == place:
                self._passed = True
            self._reached = self._passed and self._count >= self._elided  # no less than what came goes on
        return result

    def finish(self) -> None:
        """The model has returned. Where it did so before it came to this part's cut, all of it lies before the cut.

        Raises:
            PartitionError: before it came to the cut that this part begins at.
        """
        if self._count < self._elided:
            raise PartitionError(
                f"the model returned here after {self._count} calls, but the cut lies behind {self._elided} on the "
                "other side: it took another way"
            )
        if self._leaving is not None and self.parcel is None:
            self._pack()

    def _end(self) -> None:
        if self.parcel is None:
            self._pack()
        raise CutReached

    def _pack(self) -> None:
        if self._leaving is not None and self._inputs is not None:
            self.parcel = self._leaving.parcel(self._inputs, self.notes, self._soft)

    def _left_out(
        self, number: int, call: Call, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        if self._codes[number] != call.code:
            raise PartitionError(
                f"the model took another way here than on the other side at call {number}, {call.short}{self._where()}"
            )
        result = self._results[number]
        if type(result) is Ghost:
            return result
        if isinstance(result, Here):
            if ghostly(args) or ghostly(kwargs.values()):
                return self._soften(number, call, func, args, kwargs)
            return func(*args, **kwargs)
        target = _target(call, args, kwargs)
        # What was written there on the other side is not there on this one.
        if target is not None and type(target) is not Ghost and id(target) not in self._received:
            self._stale[id(target)] = target
        return self._given.result(result, args, kwargs)

    def _soften(
        self, number: int, call: Call, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Of weights that are on another side, give ghosts: only there it is computed.

        Where an activation is needed too, or a weight changes, these inputs have led past the cut by another way, such
        as a loop with fewer rounds: the part ends here, and the next goes on with all that is in use.
        """
        known = number < self._elided or any(each.is_constant(number, call.code) for each in self._variants)
        if not known and self._leaving is None:
            refuse(f"{call.short}{self._where()}")
        if not known and (call.in_place or not _all_weights(args, kwargs)):
            self._end()
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        self._soft.add(number)
        return _as_ghosts(result)

    def _refuse_stale(self, call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        for each in tensors_in((args, kwargs)):
            if id(each) in self._stale:
                raise PartitionError(
                    f"{call.short}{self._where()} uses a tensor of this side that was written to on the other side; "
                    "cut before that, or behind this"
                )

    def _refuse_torn(self, call: Call, target: Tensor) -> None:
        """For autograd, tensors that arrive have no memory in common; their gradients would not know of the write."""
        for each in self._shared:
            apart = _root(each) is not _root(target)
            if apart and (each.requires_grad or target.requires_grad) and overlap(leaf_of(each), leaf_of(target)):
                raise PartitionError(
                    f"{call.short}{self._where()} writes to a tensor that shares memory with another that crossed; in "
                    "training, cut elsewhere"
                )

    def _where(self) -> str:
        """The innermost module that is running, for a message."""
        frame = sys._getframe()
        while frame.f_back is not None:
            path = self._host.where(frame.f_locals.get("self"))
            if path is not None:
                return f" in {path}" if path else ""
            frame = frame.f_back
        return ""


def _target(call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """What a call writes to."""
    if not (call.in_place or "out" in kwargs or kwargs.get("inplace")):
        return None
    target = kwargs.get("out", args[0] if args else None)
    return target if isinstance(target, Tensor) else None


def _root(tensor: Tensor) -> Tensor:
    """What autograd takes a tensor for a view of."""
    return tensor if tensor._base is None else tensor._base


def _all_weights(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    return all(type(each) is Ghost or isinstance(each, nn.Parameter) for each in tensors_in((args, kwargs)))


def _as_ghosts(result: Any) -> Any:
    if type(result) is Ghost:
        return result  # an argument, given back as it was: on the other side it is the same tensor, too
    if isinstance(result, Tensor):
        return ghost_of(result)
    if isinstance(result, tuple | list):
        return type(result)(_as_ghosts(each) for each in result)
    return result
