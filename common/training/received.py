"""Received tensors as autograd sees them at the tail."""

from typing import Any

import torch
from torch import Tensor


def received_tensor(tensor: Tensor, gradients: dict[int, Tensor], index: int) -> Tensor:
    """The tensor as the tail's part takes it; the backward pass puts its gradient into ``gradients``."""
    leaf = tensor.detach().requires_grad_()
    received: Tensor = _Received.apply(leaf, gradients, index)  # type: ignore[no-untyped-call]
    return received


class _Received(torch.autograd.Function):
    """The received tensor as a value that the tail's in-place operations may write to (a leaf they may not).

    Its gradient is taken as it flows, which is how it would flow on in the whole model: a leaf's own would be copied
    to the leaf's strides.
    """

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, gradients: dict[int, Tensor], index: int) -> Tensor:
        """A tensor over the same memory that is no view for autograd."""
        ctx.gradients, ctx.index = gradients, index
        empty = torch.empty(0, dtype=leaf.dtype, device=leaf.device)
        return empty.set_(leaf.untyped_storage(), leaf.storage_offset(), leaf.shape, leaf.stride())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        """Keep the gradient; nothing is behind it."""
        ctx.gradients[ctx.index] = gradient
        return None, None, None
