"""Graphs of forward passes that outlive the weights they were computed with (weight stashing: PipeDream, 2019)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from common.errors import UsageError

_Packed = tuple[Tensor, int | None]


class Stash:
    """Lets the graphs of a part's forward passes keep the weights of their moment.

    An optimizer overwrites weights in place. Before it does, `renew` gives the part's weights other memory, and the
    graphs that are kept go on with the old one, which is freed with the last of them. What else a graph needs must
    stay as it was; a model that overwrites it is refused in the backward pass, as torch does without a stash.
    (A model that computes anew in its backward pass, by `torch.utils.checkpoint`, does so with the newest weights.)
    """

    def __init__(self, part: nn.Module) -> None:
        self._weights = [each for each in part.parameters() if each.requires_grad]
        self._memory = self._places()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A forward pass in here makes a graph that may be kept over updates."""
        self._memory = self._places()  # the part may have come to a device, or got other values, since
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            yield

    def renew(self) -> None:
        """Give the weights memory of their own; those that shared some (tied, or an RNN's on a GPU) share it again."""
        moved: dict[int, torch.UntypedStorage] = {}
        for each in self._weights:
            old = each.untyped_storage()
            if old.data_ptr() not in moved:
                moved[old.data_ptr()] = old.clone()  # type: ignore[no-untyped-call]
            each.data = torch.empty(0, dtype=each.dtype, device=each.device).set_(
                moved[old.data_ptr()], each.storage_offset(), each.shape, each.stride()
            )

    def _places(self) -> set[int]:
        return {each.untyped_storage().data_ptr() for each in self._weights}

    def _pack(self, tensor: Tensor) -> _Packed:
        # Not the tensor itself: for a weight that would be whatever it holds when the gradient comes.
        own = tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() in self._memory
        return tensor.detach(), None if own else tensor._version


def _unpack(packed: _Packed) -> Tensor:
    tensor, version = packed
    if version is not None and tensor._version != version:
        raise UsageError(
            f"a tensor of shape {tuple(tensor.shape)} that the gradient needs was overwritten before it came; "
            "--replay recompute does without it"
        )
    return tensor
