"""Up to which learning rate is training with late gradients stable? ``python -m benchmarks.late_stability``.

Along one direction of the loss with curvature c, an optimizer with momentum m (Adam's first moment, with its second as
good as constant) and gradients that are K steps late do, at rate r,

    m <- b m + (1 - b) c w(K steps ago)        w <- w - r m

which is stable while all eigenvalues of that linear map are within the unit circle. What counts is r c; the table shows
the largest stable one. With a lookahead of a the gradient is that of w - a K r m, as of K steps ago.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.table import print_table
from common.command import run_command
from common.config import parse

_LARGEST, _ROUNDING = 256.0, 1e-9


@dataclass(frozen=True)
class Options:
    """The largest stable learning rate, times the curvature, for staleness bounds and momenta."""

    stale_it: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Staleness bounds."""
    momentum: tuple[float, ...] = (0.0, 0.9, 0.98)
    """Momenta b; Adam's is 0.9."""
    lookahead: tuple[float, ...] = (0.0, 1.0, 1.5)
    """How far to look ahead, in parts of how late gradients are."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Print the table."""
    print_table(rows_of(parse(Options)))


def rows_of(options: Options) -> Sequence[dict[str, object]]:
    """A row for each momentum and lookahead."""
    return [
        {
            "momentum": momentum,
            "lookahead": f"{lookahead:g}",
            **{f"K = {k}": largest_stable(momentum, k, lookahead=lookahead) for k in options.stale_it},
        }
        for momentum in options.momentum
        for lookahead in options.lookahead
    ]


def largest_stable(momentum: float, stale_it: int, *, lookahead: float) -> float:
    """Largest stable product of learning rate and curvature, by bisection."""
    low, high = 0.0, _LARGEST
    while high - low > _ROUNDING * _LARGEST:
        middle = (low + high) / 2
        spread = np.abs(np.linalg.eigvals(step(momentum, stale_it, middle, lookahead=lookahead))).max()
        low, high = (middle, high) if spread <= 1 + _ROUNDING else (low, middle)
    return low


def step(momentum: float, stale_it: int, rate: float, *, lookahead: float) -> npt.NDArray[np.float64]:
    """One step as a matrix over (w now, ..., w K steps ago, m now, ..., m K steps ago), at curvature 1."""
    held = stale_it + 1
    gradient = np.eye(2 * held)[stale_it]
    gradient[-1] -= lookahead * stale_it * rate
    moment = (1 - momentum) * gradient
    moment[held] += momentum
    weight = np.eye(2 * held)[0] - rate * moment
    shifted = np.eye(2 * held, k=-1)
    shifted[0], shifted[held] = weight, moment
    return shifted


if __name__ == "__main__":
    run_command(main)
