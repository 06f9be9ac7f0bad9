"""What a model's training starts from, where that is not the seed: torchvision's weights, or a file of the user's."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.errors import UsageError
from common.models import torchvision_weights
from common.models.weight_files import State, file_digest, read_weights

log = logging.getLogger(__name__)

_COUNTER = "num_batches_tracked"  # of batch norms: older files have none


@dataclass(frozen=True)
class FirstWeights:
    """Weights that are loaded into each model that is built."""

    path: Path | None
    """None for torchvision's."""

    def label(self, model: str) -> str:
        """Equal on two machines that start from the same; of torchvision's, they are there then.

        Raises:
            UsageError: there is no such file, or torchvision has none for this model.
        """
        if self.path is not None:
            return f"file {file_digest(self.path)}"
        name = torchvision_weights.published(model).name
        torchvision_weights.fetched(name)
        return f"torchvision {torchvision_weights.weights_of(name)}"

    def load_into(self, module: nn.Module, model: str, num_classes: int) -> None:
        """Replace the first weights of a module, and the statistics of its batch norms.

        A last layer of another number of classes keeps its own, as do layers that torchvision's model has not.

        Args:
            module: that was built.
            model: its name.
            num_classes: that it was built for.

        Raises:
            UsageError: the weights are of another model.
        """
        if self.path is None:
            source, state, partly = "torchvision", torchvision_weights.pretrained(model), True
        else:
            source, state = str(self.path), read_weights(self.path)
            partly = model in torchvision_weights.TABLE and state.keys().isdisjoint(module.state_dict())
            state = _translated(model, state, source) if partly else state
        kept = load_state(module, state, source, num_classes, partly=partly)
        if kept:
            log.info("%s: weights from %s; drawn from the seed: %s", model, source, _several(kept))


def first_weights(pretrained: bool, path: Path | None) -> FirstWeights | None:
    """What the flags ask for; None for weights drawn from the seed.

    Raises:
        UsageError: both, or no such file.
    """
    if pretrained and path is not None:
        raise UsageError(
            "--pretrained loads torchvision's weights and --weights those of a file; give one or the other"
        )
    if path is not None and not path.expanduser().is_file():
        raise UsageError(f"--weights is {path}, and there is no such file")
    return FirstWeights(None if path is None else path.expanduser()) if pretrained or path is not None else None


def load_state(module: nn.Module, state: State, source: str, num_classes: int, *, partly: bool) -> list[str]:
    """Load a state by name, and return the names of what keeps its own values.

    Args:
        module: to load into.
        state: of it, or of the same model with another number of classes.
        source: what to call it in an error.
        num_classes: of the module.
        partly: whether layers may be missing, or of another shape.

    Raises:
        UsageError: the state is of another model.
    """
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    own = {name: shape for name, shape in shapes.items() if not name.endswith(_COUNTER)}
    fits = {name: value for name, value in state.items() if value.shape == shapes.get(name)}
    kept = [name for name in own if name not in fits]
    if partly and 2 * len(kept) > len(own):
        raise UsageError(f"{source} has nothing for {len(kept)} of {len(own)} tensors: is it of another model?")
    if not partly:
        _require_all(own, state, source, num_classes)
    module.load_state_dict(fits, strict=False)
    return kept


def _require_all(own: Mapping[str, torch.Size], state: State, source: str, num_classes: int) -> None:
    """Only a last layer may be of another shape, that of another number of classes."""
    if missing := [name for name in own if name not in state]:
        raise UsageError(f"{source} has no {_several(missing)}: is it of another model, or of a part of this one?")
    if foreign := [name for name in state if name not in own and not name.endswith(_COUNTER)]:
        raise UsageError(f"{source} has {_several(foreign)}, which the model has not: is it of another model?")
    for name, shape in own.items():
        found = state[name].shape
        last_layer = len(shape) > 0 and shape[0] == num_classes and shape[1:] == found[1:]
        if shape != found and not last_layer:
            shapes = " and ".join("x".join(map(str, each)) or "a number" for each in (found, shape))
            raise UsageError(f"{source}: {name} is of another shape than in the model, {shapes}")


def _translated(model: str, state: State, source: str) -> State:
    try:
        return torchvision_weights.published(model).translate(state)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise UsageError(f"{source} has neither the names of {model}'s weights nor those of torchvision's") from error


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
