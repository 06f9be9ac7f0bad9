"""``topk:r`` and ``randtopk:r``: which elements of a tensor travel; the others are 0 at the receiver."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.codec.context import Key
from common.codec.noise import generator
from common.codec.positions import Positions

EXPLORED = 0.1
"""Part of the elements that `randtopk` takes from those that are not the largest (alpha in Zheng et al. 2023, whose
best results are at 0.1)."""


class TopK:
    """The r * n elements of largest magnitude, at least one; of equal ones the first.

    Args:
        ratio: r.
        explore: choose part of them at random instead, in training: elements that are never the largest would never
            be trained (RandTopk).
    """

    def __init__(self, ratio: float, *, explore: bool) -> None:
        self._ratio, self._explore = ratio, explore

    def count(self, elements: int) -> int:
        """How many of so many elements travel."""
        return min(elements, max(1, round(self._ratio * elements)))

    def positions(self, values: Tensor, *, training: bool, key: Key) -> Positions:
        """Positions of the elements that travel, ascending.

        Raises:
            ValueError: NaN or infinite values.
        """
        # numpy's partition takes a tenth of the time of torch's topk and kthvalue.
        sizes = values.abs().to(torch.promote_types(values.dtype, torch.float32)).cpu().numpy()
        count = self.count(len(sizes))
        if not count:
            return np.empty(0, np.int64)
        if not math.isfinite(sizes.max()):
            raise ValueError("NaN or infinite values")
        least = np.partition(sizes, len(sizes) - count)[len(sizes) - count]
        chosen = sizes > least
        equal = np.flatnonzero(sizes == least)
        chosen[equal[: count - np.count_nonzero(chosen)]] = True
        if self._explore and training:
            _swap_some(chosen, count, generator(key))
        return np.flatnonzero(chosen)


def _swap_some(chosen: npt.NDArray[np.bool_], count: int, random: np.random.Generator) -> None:
    """Give each chosen element's place, with probability `EXPLORED`, to one that was not chosen."""
    others = np.flatnonzero(~chosen)
    swapped = min(int(random.binomial(count, EXPLORED)), len(others))
    top = np.flatnonzero(chosen)
    chosen[random.choice(top, swapped, replace=False, shuffle=False)] = False
    chosen[random.choice(others, swapped, replace=False, shuffle=False)] = True
