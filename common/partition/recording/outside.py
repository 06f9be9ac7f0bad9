"""Tensors that a model has from elsewhere: its parameters and buffers, what hangs on it, caches, globals."""

import gc
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.partition.recording.nested import reachable_tensors
from common.partition.steps import state_of


class Outside:
    """What there was before a run. A tensor that is neither here nor made by a call was made out of sight."""

    def __init__(self, model: nn.Module, own: Iterable[Any]) -> None:
        self._names: dict[int, list[str]] = {}
        self.buffers = {id(each) for each in model.buffers()}
        for name, tensor in state_of(model).items():
            self._names.setdefault(id(tensor), []).append(name)
        # The list keeps them alive: an id must not be given to another tensor during the run.
        self._alive = _all_tensors()
        self._ids = {id(each) for each in self._alive}
        self._own = {id(each) for each in reachable_tensors(list(own), set())}
        self._state_storages = {storage_of(each) for each in state_of(model).values()}

    def is_state(self, tensor: Tensor) -> bool:
        """Whether it is a parameter or buffer."""
        return id(tensor) in self._names

    def has(self, tensor: Tensor) -> bool:
        """Whether it was there before, and its memory is not the model's state: that would not be seen to change."""
        return self.is_state(tensor) or (id(tensor) in self._ids and storage_of(tensor) not in self._state_storages)

    def differs(self, tensor: Tensor) -> bool:
        """Whether each part may have another tensor here: one of a cache that it has of its own."""
        return id(tensor) in self._own

    def name(self, tensor: Tensor, modules: Sequence[str]) -> str:
        """The name of a parameter or buffer; of several, the one of the innermost module that has one."""
        names = self._names[id(tensor)]
        for path in reversed(modules):
            for name in names:
                if name.rpartition(".")[0] == path:
                    return name
        return names[0]


def storage_of(tensor: Tensor) -> int:
    """Equal for tensors that share memory."""
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse and nested tensors
        return -id(tensor)
    return int(storage.data_ptr() or storage._cdata)


def _all_tensors() -> list[Tensor]:
    kinds: dict[type, bool] = {}
    found: list[Tensor] = []
    for each in gc.get_objects():
        kind = type(each)
        if kind not in kinds:
            kinds[kind] = issubclass(kind, torch.Tensor)
        if kinds[kind]:
            found.append(each)
    return found
