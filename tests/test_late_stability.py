"""How fast training with late gradients may be: known limits, and that the optimizer's steps are those of the model."""

import pytest

from benchmarks.late_stability import Options, largest_stable, rows_of, step


@pytest.mark.parametrize(
    ("momentum", "stale_it", "lookahead", "expected"),
    [
        (0.0, 0, 0, 2.0),  # gradient descent
        (0.9, 0, 0, 38.0),  # 2 (1 + b) / (1 - b): Cohen et al., Adaptive gradient methods at the edge of stability
        (0.0, 1, 0, 1.0),
        (0.9, 1, 0, 1.0),
        (0.0, 2, 0, 0.618),  # 2 sin(pi / (2 (2 K + 1)))
        (0.9, 0, 1, 38.0),
    ],
)
def test_known_limits(momentum: float, stale_it: int, lookahead: float, expected: float) -> None:
    assert largest_stable(momentum, stale_it, lookahead=lookahead) == pytest.approx(expected, abs=1e-3)


def test_with_momentum_looking_ahead_allows_more_and_less_delay_allows_more() -> None:
    plain, ahead = rows_of(Options(momentum=(0.9,), stale_it=(1, 2, 3), lookahead=(0, 1)))
    for k in (1, 2, 3):
        assert float(str(ahead[f"K = {k}"])) > 2 * float(str(plain[f"K = {k}"]))
    assert float(str(plain["K = 1"])) > float(str(plain["K = 2"])) > float(str(plain["K = 3"]))


def test_a_step_is_the_recurrence() -> None:
    """Two steps behind, by hand."""
    weights, moments, rate = [1.0, 2.0, 4.0], [0.5, 0.25, 0.125], 0.1
    moment = 0.9 * 0.5 + 0.1 * (4.0 - 2 * rate * 0.125)
    found = step(0.9, 2, rate, lookahead=1) @ [*weights, *moments]
    assert found == pytest.approx([1.0 - rate * moment, 1.0, 2.0, moment, 0.5, 0.25])
