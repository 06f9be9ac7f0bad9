"""A model as a trace sees it: the steps of a forward pass in their order, and what each of them makes.

All front ends describe a model in these terms; where it can be cut, what crosses there and what each side needs
follows from them alone.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

Kind = Literal["input", "operation", "output"]


@dataclass(frozen=True)
class Memory:
    """Where a tensor's elements lie. All in elements of its dtype."""

    storage: int
    """Equal for two tensors that share memory."""
    offset: int
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """A tensor in what a step made; or a number, as the 0-d tensor that it crosses as."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    memory: Memory | None = None
    """None for a number."""
    differentiable: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Step:
    """One computation of a forward pass."""

    name: str
    """Unique in its trace."""
    kind: Kind
    label: str
    """What it computes; equal for equal computations, on any machine."""
    modules: tuple[str, ...] = ()
    """Paths of the modules that it runs in, outermost first, without the model itself."""
    layer: str = ""
    """Path of the module that it is one whole call of; empty where it is part of one, or between them."""
    takes: tuple[int, ...] = ()
    """Indices of the steps whose values it uses."""
    state: tuple[str, ...] = ()
    """Names of the parameters and buffers that it uses itself: not those in the steps that it takes."""
    leaves: tuple[Leaf, ...] = ()
    """What of its value would cross a cut."""
    crosses: bool = True
    """Whether its value can cross: made of tensors and numbers and nothing else."""
    writes: frozenset[int] = field(default_factory=frozenset)
    """Storages that it wrote to."""
    continues: bool = False
    """Takes an item out of what the step before it made: there is no cut between them."""
    constant: bool = False
    """Made of parameters, buffers and literals alone: computed again where it is used instead of sent."""


class Trace(Protocol):
    """A model in one mode (training or evaluation), traced by some front end."""

    steps: Sequence[Step]
    """Inputs first, in the order in which they cross cut 0; the output last."""

    def walk(self, args: Sequence[Any], kwargs: dict[str, Any], visit: Callable[[int], None]) -> Any:
        """Run the whole model; ``visit(i)`` is called when step ``i`` is done. Returns the model's outputs."""

    def extras(self, position: int) -> tuple[Leaf, ...]:
        """What crosses behind ``steps[:position]`` besides the live set."""

    def on(self, model: nn.Module) -> "Trace":
        """The same over the weights of another model of the same structure."""


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a model by all their names, tied ones under each."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def state_used(steps: Sequence[Step], index: int) -> set[str]:
    """Names of the parameters and buffers that a step uses, itself and in the constants that it takes."""
    constants = (each for each in steps[index].takes if steps[each].constant)
    return {*steps[index].state, *(name for each in constants for name in state_used(steps, each))}


def without_weights(model: nn.Module) -> nn.Module:
    """A copy of a model with its parameters and buffers on the meta device."""
    bare = {id(value): _bare(value) for value in state_of(model).values()}
    return copy.deepcopy(model, bare)


def _bare(value: Tensor) -> Tensor:
    empty = torch.empty_like(value, device="meta")
    return nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
