"""The cut points of a model as its user sees them: names, zoom levels, sizes, and where training must not be cut."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from common.partition.blocks import Blocks
from common.partition.liveness import Position
from common.partition.steps import Step, Trace
from common.partition.unsafe import Sharing

Level = Literal["stage", "module", "operation"]


@dataclass(frozen=True)
class CutPoint:
    """A place to cut: the head computes all up to and with ``name``."""

    index: int
    name: str
    tensors: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    """(shape, dtype) of what crosses, at the example's batch size; a number is a 0-d tensor."""
    activation_bytes: int
    parameters_before: int
    """Number of parameters in the head."""
    level: Level
    """What ends here: a block of the model as `Graph.slices` has them (or the input), else a layer, else an operation
    between layers."""
    unsafe: str = ""
    """Why training must not be cut here; empty where it may."""


def describe(
    model: nn.Module,
    traces: Mapping[bool, Trace],
    places: Sequence[Position],
    in_training: Sequence[Position | None],
    untrainable: str,
) -> tuple[CutPoint, ...]:
    """The points at ``places`` of the trace in evaluation."""
    steps = traces[False].steps
    blocks = Blocks(model)
    sharing = {training: Sharing(model, trace.steps) for training, trace in traces.items()}
    parameters = sharing[False].parameters_before()
    stages = {0, *block_ends(model, steps, places)}
    points = []
    for index, (place, other) in enumerate(zip(places, in_training, strict=True)):
        leaves = (*place.leaves, *traces[False].extras(place.before))
        layer = _layer(blocks, steps[place.before - 1], steps[place.before])
        points.append(
            CutPoint(
                index,
                "input" if index == 0 else layer or _operation(steps, place),
                tuple((leaf.shape, leaf.dtype) for leaf in leaves),
                sum(leaf.nbytes for leaf in leaves),
                parameters[place.before],
                "stage" if index in stages else "module" if layer else "operation",
                untrainable or _unsafe(place, other, sharing),
            )
        )
    return tuple(points)


def names_of(steps: Sequence[Step], places: Sequence[Position]) -> dict[str, int]:
    """Point behind each module and each step, by name; of a module called twice, behind its last call."""
    names: dict[str, int] = {"input": 0}
    start = places[0].before
    for index, place in enumerate(places[1:], start=1):
        for step in steps[start : place.before]:
            if not step.constant:
                names |= dict.fromkeys([*step.modules, step.name], index)
        start = place.before
    return names


def block_ends(model: nn.Module, steps: Sequence[Step], places: Sequence[Position]) -> list[int]:
    """Points behind the last step of each block."""
    blocks = Blocks(model)
    found: list[str | None] = []
    for place in places[1:]:
        # An operation between two blocks belongs to the one before it.
        block = blocks.block(steps[place.before - 1].modules)
        found.append(block or (found[-1] if found else None))
    runs = itertools.groupby(range(len(found)), key=found.__getitem__)
    return [max(run) + 1 for _, run in runs]


def _unsafe(place: Position, in_training: Position | None, sharing: Mapping[bool, Sharing]) -> str:
    if in_training is None:
        return "training takes another way here than evaluation"
    if in_training.overwritten:
        return "two of the tensors that cross share memory which is written to behind the cut"
    for training, where in ((True, in_training), (False, place)):
        if both := sharing[training].both_sides(where.before):
            return f"both sides use {', '.join(both)}"
    return ""


def _layer(blocks: Blocks, step: Step, behind: Step) -> str:
    """Path of the layer that ends with a step; empty where none does."""
    if step.layer or not step.modules:
        return step.layer
    last = step.modules[-1]
    return last if blocks.is_layer(last) and last not in behind.modules else ""


def _operation(steps: Sequence[Step], place: Position) -> str:
    """Name of the operation that ends at a position."""
    return next(step.name for step in reversed(steps[: place.before]) if not step.continues)
