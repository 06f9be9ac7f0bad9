"""Random numbers for rounding and choosing: a function of (seed, direction, step, tensor), and of nothing else.

They are drawn on the CPU wherever the tensor is, so that no device, thread or link changes a run.
"""

import numpy as np
import torch
from torch import Tensor

from common.codec.context import Key

_BITS = 12
# Twelve bits leave a rounding unbiased within 2**-13 of a step. The half keeps the noise off 0 and 1 by more than
# the rounding error of what it is added to, so that values on the grid, zeros above all, stay where they are.


def generator(key: Key) -> np.random.Generator:
    """The random numbers of one tensor."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


def rounding_noise(key: Key, count: int) -> Tensor:
    """int16 (count,): whole numbers below 2**12; see `fraction`."""
    raw = np.random.SFC64(np.random.SeedSequence(key)).random_raw(-(-count // 4))
    return torch.from_numpy((np.atleast_1d(raw).view(np.uint16)[:count] >> (16 - _BITS)).view(np.int16))


def fraction(noise: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers between 0 and 1, both excluded."""
    return noise.to(dtype).add_(0.5).mul_(2.0**-_BITS)
