"""From a choice to the module that is trained: drawn from the seed, then other first weights, then a frozen part."""

from dataclasses import dataclass

import torch
from torch import nn

from common.errors import JobRefused
from common.models.choice import Choice
from common.models.first_weights import FirstWeights
from common.models.freeze import freeze
from common.naming import printable
from common.partition import trace
from common.wire.structs import Job


@dataclass(frozen=True)
class Building:
    """How a model is built, alike on both sides; called, it builds."""

    model: Choice
    num_classes: int
    dropout: float
    weights: FirstWeights | None
    frozen: int = 0
    """Index of the cut point before which nothing is trained."""

    def __call__(self) -> nn.Module:
        """A new module; on the meta device, where only its size is asked for, neither loaded nor frozen."""
        module = self.model.build(self.num_classes, dropout=self.dropout)
        if torch.empty(0).is_meta:
            return module
        if self.weights is not None:
            self.weights.load_into(module, self.model.name, self.num_classes)
        if self.frozen:
            part, _ = trace(module, self.model.example(2)).parts(self.frozen)
            freeze(module, part)
        return module


def require_same_weights(job: Job, weights: FirstWeights | None) -> None:
    """Refuse a job that starts from other weights than this server would.

    Raises:
        JobRefused: with what to give to which side.
    """
    mine = "" if weights is None else weights.label(job.model)
    if mine == job.weights:
        return
    its = printable(job.weights, 100)
    if not mine:
        raise JobRefused(
            f"the client starts from weights ({its}), this server from the seed; start both with the same "
            "--pretrained or --weights FILE"
        )
    if not job.weights:
        raise JobRefused(
            f"this server was started with weights ({mine}), the client without; start both with the same --pretrained "
            "or --weights FILE"
        )
    raise JobRefused(
        f"the client starts from other weights ({its}) than this server ({mine}); copy one file to both sides"
    )
