"""A journey that arrived, made ready: what each call before the cut gives on this side."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import PartitionError
from common.partition.recording.ghosts import Ghost, ghost
from common.partition.recording.inputs import rebuilt
from common.partition.recording.journey import checked_route, container, read_value
from common.partition.recording.nested import tensors_in
from common.partition.recording.outcomes import (
    ASIDE,
    DTYPES,
    NESTED,
    REQUIRES_GRAD,
    Fresh,
    Here,
    Kept,
    Many,
    Outcome,
    Plain,
    Same,
    Turned,
)

_CPU = torch.device("cpu")


class Program:
    """What a route says, with ghosts for the tensors that did not cross. Serves any number of runs of this route."""

    def __init__(self, route: bytes, key: str, tensors: int, device: torch.device) -> None:
        self._device = device
        self.tensors = tensors
        read, entries = checked_route(route, key, tensors)
        self._inputs: Outcome = read.inputs
        self.codes = [code for code, _ in entries]
        self.reusable = not any(isinstance(outcome, Turned) for _, outcome in entries)
        """Whether its ghosts keep their shapes."""
        self.results: list[Any] = [self._prepared(outcome) for _, outcome in entries]
        """For each call, the ghost or None that it gives, or else the outcome from which to make what it gives."""

    def _prepared(self, outcome: Outcome) -> Any:
        return self._ghost(outcome) if isinstance(outcome, Fresh) else outcome

    def _ghost(self, fresh: Fresh) -> Ghost:
        made = ghost(
            fresh.shape,
            DTYPES[fresh.dtype],
            _CPU if fresh.traits & ASIDE else self._device,
            requires_grad=bool(fresh.traits & REQUIRES_GRAD),
        )
        made.nested = bool(fresh.traits & NESTED)
        return made

    def arguments(self, values: Sequence[Tensor], local: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the model on this side.

        Args:
            values: the tensors that crossed.
            local: gives the object of this side for a key.
        """
        made: list[Tensor] = []

        def tensor(outcome: Outcome) -> Tensor:
            if isinstance(outcome, Same) and outcome.index < len(made):
                return made[outcome.index]
            if isinstance(outcome, Fresh | Kept):
                made.append(values[outcome.index] if isinstance(outcome, Kept) else self._ghost(outcome))
                return made[-1]
            raise PartitionError(f"the journey has {outcome} among the inputs")

        rebuild = rebuilt(self._inputs, tensor, local)
        match rebuild:
            case (tuple() as args, dict() as kwargs):
                return args, kwargs
        raise PartitionError("the journey does not describe the arguments of a model")


class Given:
    """What the calls before the cut give in one run."""

    def __init__(self, program: Program, tensors: Sequence[Tensor], numbers: int, values: Sequence[Any]) -> None:
        self.numbers = numbers
        """Hash of the whole numbers that the calls were given."""
        self._program = program
        self._tensors = tensors
        self._values = iter(values)

    def result(self, outcome: Outcome, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a call.

        Raises:
            PartitionError: the journey does not fit the call.
        """
        if isinstance(outcome, Kept):
            return self._tensors[outcome.index]
        if isinstance(outcome, Plain):
            try:
                return read_value(next(self._values), outcome.form)
            except StopIteration:
                raise PartitionError("the journey has fewer values than it announces") from None
        if isinstance(outcome, Same | Turned):
            for place, each in enumerate(tensors_in((args, kwargs))):
                if place == outcome.index:
                    return _turned(each, outcome) if isinstance(outcome, Turned) else each
            raise PartitionError(f"the journey has {outcome}, but the call has no such tensor")
        if isinstance(outcome, Fresh):
            return self._program._ghost(outcome)
        if isinstance(outcome, Many):
            items = [self.result(each, args, kwargs) for each in outcome.items]
            return _contained(outcome, items)
        if isinstance(outcome, Here):
            raise PartitionError("the journey leaves a part of a result to be computed here")
        return None


def _turned(tensor: Tensor, outcome: Turned) -> Tensor:
    if type(tensor) is not Ghost:
        return tensor  # what crossed has its last shape already
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        return tensor.as_strided_(outcome.shape, (0,) * len(outcome.shape))


def _contained(outcome: Many, items: list[Any]) -> Any:
    if outcome.kind == "dict":
        return dict(zip(outcome.keys, items, strict=True))
    if outcome.kind == "list":
        return items
    named = container(outcome.kind)
    try:
        return named(items) if named is not None else tuple(items)
    except TypeError as error:
        raise PartitionError(f"the journey has a {outcome.kind} of {len(items)} values") from error
