"""Weights of a model over several sides: divided by name, put together again, and loaded where they are used."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.steps import state_of


def divided(state: Mapping[str, Tensor], parts: Sequence[nn.Module]) -> list[dict[str, Tensor]]:
    """The state of a whole model, divided among its parts. Names stay as they are.

    Raises:
        PartitionError: a part needs what is not there.
    """
    shares = []
    for part in parts:
        own = part.state_dict().keys()
        if missing := sorted(own - state.keys()):
            raise PartitionError(f"the state has no {_several(missing)}; is it of another model?")
        shares.append({name: state[name] for name in own})
    return shares


def joined(states: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    """The state of a whole model from those of its parts.

    Args:
        states: of the parts.
        names: all that the model has, in its order.

    Raises:
        PartitionError: a name is in none, or in two with different values.
    """
    whole: dict[str, Tensor] = {}
    for state in states:
        for name, value in state.items():
            if name in whole and not torch.equal(whole[name].cpu(), value.cpu()):
                raise PartitionError(f"two parts have different values of {name}; they were trained apart")
            whole[name] = value
    if missing := sorted(set(names) - whole.keys()):
        raise PartitionError(f"no part has {_several(missing)}; a part is missing")
    if foreign := sorted(whole.keys() - set(names)):
        raise PartitionError(f"the model has no {_several(foreign)}; a part is of another model")
    return {name: whole[name] for name in names}


def load_own(part: nn.Module, path: Path, device: torch.device | str = "cpu") -> None:
    """Load what a part has from a whole model's safetensors file, reading nothing else of it.

    The part may be on the meta device: it then takes memory for its own weights only.

    Raises:
        PartitionError: no such file, a name that it lacks, another shape, or a tensor of the part that no file holds.
    """
    wanted = part.state_dict()
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            if missing := sorted(wanted.keys() - set(file.keys())):
                raise PartitionError(f"{path} has no {_several(missing)}; is it of another model?")
            loaded = {name: file.get_tensor(name) for name in wanted}
    except (OSError, SafetensorError) as error:
        raise PartitionError(f"{path} cannot be loaded: {error}") from error
    for name, value in loaded.items():
        if value.shape != wanted[name].shape:
            raise PartitionError(
                f"{path}: {name} is {'x'.join(map(str, value.shape))}; the model has "
                f"{'x'.join(map(str, wanted[name].shape))}"
            )
    part.load_state_dict(loaded, assign=True)
    if bare := sorted(name for name, value in state_of(part).items() if value.is_meta):
        raise PartitionError(
            f"no file holds {_several(bare)}, which the model computes when it is built; build it with its weights"
        )


def _several(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
