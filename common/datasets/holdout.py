"""A test split of data that come without one: the same for every seed, so that runs can be compared."""

import numpy as np
import numpy.typing as npt

from common.datasets.images import Labels

_SHARE = 0.2


def held_out(labels: Labels) -> npt.NDArray[np.bool_]:
    """Mark a fifth of each class, after a shuffle that is always the same."""
    random = np.random.default_rng(0)
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen[members[len(members) - round(_SHARE * len(members)) :]] = True
    return chosen
