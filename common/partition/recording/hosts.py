"""The model's code on one side: a copy of its structure, with this side's weights and ghosts for all others."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.recording.ghosts import ghost_of
from common.partition.recording.places import Places
from common.partition.steps import state_of


@dataclass
class _Slot:
    """A parameter or buffer of the copy."""

    module: nn.Module
    name: str
    source: str | None
    """Its name in the part: that of the tensor it is tied to, where it is there under that name only."""
    tensor: Tensor
    """What is bound there."""


class Host:
    """A model that can run where only some of its weights are."""

    def __init__(self, model: nn.Module, owned: set[str]) -> None:
        state = state_of(model)
        names = {id(tensor): name for name, tensor in state.items() if name in owned}
        memo: dict[int, Any] = {id(each): each if id(each) in names else ghost_of(each) for each in state.values()}
        try:
            self.model: nn.Module = deepcopy(model, memo)
        except (RuntimeError, TypeError) as error:
            raise PartitionError(f"{type(model).__name__} cannot be copied: {error}") from error
        self._slots = [
            _Slot(
                self.model.get_submodule(path), leaf, name if name in owned else names.get(id(tensor)), memo[id(tensor)]
            )
            for name, tensor in state.items()
            for path, _, leaf in [name.rpartition(".")]
        ]
        self.places = Places(self.model)
        self._device: torch.device | None = None

    def bind(self, store: dict[str, Tensor], device: torch.device) -> None:
        """Take the weights that the part has now: they may be other objects than before, on another device."""
        moved = device != self._device
        for slot in self._slots:
            if slot.source is not None:
                tensor = store[slot.source]
                if tensor is not slot.tensor:
                    self._put(slot, tensor)
            elif moved and slot.tensor.device != device:
                self._put(slot, ghost_of(slot.tensor, device))
            elif slot.module._buffers.get(slot.name, slot.tensor) is not slot.tensor:
                self._put(slot, slot.tensor)  # what the last run has put there is of that run
        self._device = device

    def replaced(self) -> dict[str, Tensor]:
        """Buffers for which the run has put other tensors in their place."""
        found = {}
        for slot in self._slots:
            current = slot.module._buffers.get(slot.name)
            if slot.source is not None and current is not None and current is not slot.tensor:
                slot.tensor = found[slot.source] = current
        return found

    def where(self, module: Any) -> str | None:
        """The path of a module of the copy; None for any other object."""
        return next((path for path, each in self.model.named_modules() if each is module), None)

    @staticmethod
    def _put(slot: _Slot, tensor: Tensor) -> None:
        setattr(slot.module, slot.name, tensor)  # not its dict: recurrent layers keep a second list
        slot.tensor = tensor
