"""The steps of a head whose gradients have not been applied, as it holds them and as they are written down."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.training.checkpoint import PendingStep
from common.training.part_state import State, flat


@dataclass
class Pending:
    """A step whose gradient has not been applied."""

    epoch: int
    inputs: tuple[Tensor, ...]
    wanted: tuple[bool, ...]
    """For each activation, whether its gradient is due."""
    gradients: list[tuple[tuple[int, ...], str]]
    """Shape and dtype of each that is due."""
    outputs: tuple[Tensor, ...] | None
    """With their graph, at K = 0 or from the stash; None where they are computed again."""
    count: int = 0
    """Samples."""
    coding_error: tuple[Tensor, ...] | None = None

    @staticmethod
    def read(tensors: Mapping[str, Tensor], facts: PendingStep, device: torch.device) -> "Pending":
        """A step of a checkpoint."""
        inputs = tuple(tensors[f"inputs/{facts.step}/{i}"].to(device) for i in range(facts.inputs))
        errors = tuple(tensors[f"errors/{facts.step}/{i}"] for i in range(facts.errors))
        gradients = [(shape, dtype) for shape, dtype in facts.gradients]
        return Pending(facts.epoch, inputs, facts.wanted, gradients, None, facts.count, errors or None)


@dataclass(frozen=True)
class HeadSnapshot:
    """A head between two steps."""

    state: State
    pending: dict[int, Pending]
    codecs: dict[str, Tensor] = field(default_factory=dict)
    """What codecs remember, where that is known at once."""

    def written(self) -> tuple[dict[str, Tensor], list[PendingStep]]:
        """Tensors and facts of all of it; complete where all uploads before it are encoded."""
        tensors = flat(self.state, "head/") | self.codecs
        pending = []
        for step, each in self.pending.items():
            if each.outputs is not None:
                raise ValueError("a graph that is kept cannot be in a checkpoint")
            errors = each.coding_error or ()
            for kind, values in (("inputs", each.inputs), ("errors", errors)):
                tensors |= {f"{kind}/{step}/{i}": value.to("cpu", copy=True) for i, value in enumerate(values)}
            forms = tuple((tuple(shape), dtype) for shape, dtype in each.gradients)
            pending.append(PendingStep(step, each.epoch, each.count, len(each.inputs), len(errors), each.wanted, forms))
        return tensors, pending
