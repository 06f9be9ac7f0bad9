"""``ef``: what a lossy codec leaves out of a gradient is kept, and added to the next one of the same tensor.

Gradients are of other samples each step, but they drive the same weights: errors that are made up for later do not
add up. Where the last batch is smaller, its samples use the first places of the memory, and the others wait.
"""

import math

import torch
from torch import Tensor

from common.codec.chain import Coded, Coder
from common.codec.context import Context, Slot
from common.codec.limit import MemoryLimit
from common.codec.values import Params

_WIDER = {torch.float32: torch.float64, torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""In twice the width the difference of two numbers is exact, so that sent + kept == original, bit for bit. float64 has
no such type, and travels without memory."""


class ErrorFeedback:
    """Adds what was left out to what comes next. Only the sender remembers.

    Args:
        inner: codes the sums.
        limit: bounds the memory.
    """

    def __init__(self, inner: Coder, limit: MemoryLimit) -> None:
        self._inner, self._limit = inner, limit
        self._kept: dict[str, Tensor] = {}

    def encode(self, slot: Slot, values: Tensor, at: Context, key: tuple[int, ...]) -> Coded:
        """Code values + kept; keep what is left of it."""
        if not at.training or slot.dtype not in _WIDER or not slot.elements:
            return self._inner.encode(slot, values, at, key)
        name, values = _name(slot), values.cpu()
        kept = self._memory(name, slot)[: slot.elements]
        original = kept.add_(values).to(slot.dtype)
        coded = self._inner.encode(slot, original, at, key)
        sent = self._inner.decode(slot, coded.params, coded.content.cpu(), at)
        kept.copy_(original).sub_(sent)
        return coded._replace(sent=sent)

    def nbytes(self, slot: Slot, params: Params, at: Context) -> int:
        """As without memory."""
        return self._inner.nbytes(slot, params, at)

    def decode(self, slot: Slot, params: Params, content: Tensor, at: Context) -> Tensor:
        """As without memory."""
        return self._inner.decode(slot, params, content, at)

    def state(self) -> dict[str, Tensor]:
        """What is kept of each tensor."""
        return {name: kept.clone() for name, kept in self._kept.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Replaces what is kept."""
        self._kept = {name: kept.clone() for name, kept in state.items()}

    def _memory(self, name: str, slot: Slot) -> Tensor:
        """What is kept of a tensor, long enough for this batch."""
        kept = self._kept.get(name, torch.empty(0, dtype=_WIDER[slot.dtype]))
        if len(kept) < slot.elements:
            grown = torch.zeros(slot.elements, dtype=kept.dtype)
            grown[: len(kept)] = kept
            self._limit.check(sum(each.nbytes for each in self._kept.values()) - kept.nbytes + grown.nbytes)
            self._kept[name] = kept = grown
        return kept


def _name(slot: Slot) -> str:
    """Tensors of one sample's shape share a memory, whatever the batch."""
    return f"{slot.index}/{math.prod(slot.shape[1:])}"
