"""An entry of the zoo: how to build a model without weights from anywhere, and a small batch for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

import common  # noqa: F401  lets torchvision, and what needs it, be imported beside any torch

Suite = Literal["torchvision", "timm", "ultralytics", "transformers", "other"]
SUITES: tuple[Suite, ...] = get_args(Suite)

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a forward pass."""
MakeInputs: TypeAlias = Callable[[int], Inputs]
"""A fresh batch from a seed: other values for another seed, in the same shapes."""


@dataclass(frozen=True)
class Entry:
    """One model of one suite."""

    name: str
    suite: Suite
    library: str
    """Package that must be there."""
    build: Callable[[], nn.Module]
    """The model, with the random weights that its library gives it."""
    inputs: MakeInputs
    """Batches of two samples or more, for BatchNorm. The same serves both modes."""


def library(name: str) -> Any:
    """A module by its name: the libraries of the zoo are no requirement of this project, and have few types."""
    return import_module(name)


def generator(seed: int) -> torch.Generator:
    """Random numbers that are the same on every call."""
    return torch.Generator().manual_seed(seed)


def images(seed: int, size: int, batch: int = 2) -> Tensor:
    """Random pixels (B, 3, H, W)."""
    return torch.rand(batch, 3, size, size, generator=generator(seed))


def of_images(size: int, batch: int = 2) -> MakeInputs:
    """Inputs of a model that takes images and nothing else."""
    return lambda seed: ((images(seed, size, batch),), {})


def randomise(model: nn.Module, inputs: Inputs) -> nn.Module:
    """Give every parameter a value that matters, and BatchNorm the statistics that belong to them.

    A branch that starts at zero would hide a wrong cut, and so would an activation that fades away from layer to
    layer. Weights get the size that keeps the size of what they are applied to, on average.

    Args:
        model: changed in place.
        inputs: a batch; one forward pass in training mode sees it, if there is a BatchNorm.
    """
    random = generator(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=random, dtype=value.dtype) - 0.5
                if value.dim() > 1 and value[0].numel() > 1:
                    noise *= math.sqrt(12 / value[0].numel())  # variance 1/12, times fan-in: 1
                elif not name.endswith("bias"):
                    noise += 1  # a gain
                value.copy_(noise)
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if norms:
        _calibrate(model, norms, inputs)
    return model


def _calibrate(model: nn.Module, norms: list[nn.modules.batchnorm._BatchNorm], inputs: Inputs) -> None:
    momenta, training = [each.momentum for each in norms], model.training
    args, kwargs = inputs
    for each in norms:
        each.momentum = 1.0
    with torch.no_grad():
        model.train()(*args, **kwargs)
    for each, momentum in zip(norms, momenta, strict=True):
        each.momentum = momentum
    model.train(training)
