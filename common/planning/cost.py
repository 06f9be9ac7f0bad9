"""How long a step takes, and what it takes: closed forms, pure. Times in seconds, rates in bit/s.

T are the stage times [edge, uplink, cloud, downlink], T* the largest of them. A step's way through all stages
takes ``sum T + RTT``; with bound K, K + 1 steps are on that way at once, unless the slowest stage holds them up:

    step = max(T*, (sum T + RTT) / (K + 1))

    T = 30, 42, 20, 42 ms      K = 0: 134    1: 67    2: 44.7    3 and above: 42

`step_time` and `smallest_sufficient_staleness` are of one plan; the others are of many at once: stages are arrays
whose first axis has the stages, and what they return has the other axes.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ROUNDING = 1e-9  # sums of the same times in another order must not ask for one more step under way


def step_time(stages_s: Sequence[float], rtt_s: float, stale_it: int) -> float:
    """Step time in the steady state, with staleness bound K = ``stale_it``."""
    return max(*stages_s, (sum(stages_s) + rtt_s) / (stale_it + 1))


def smallest_sufficient_staleness(stages_s: Sequence[float], rtt_s: float) -> int:
    """The least K at which the slowest stage alone sets the step time: ceil((sum T + RTT) / T*) - 1."""
    slowest = max(stages_s)
    return max(math.ceil((sum(stages_s) + rtt_s) / slowest - _ROUNDING) - 1, 0) if slowest > 0 else 0


def step_times(slowest_s: Floats, way_s: Floats, stale_it: Floats | float) -> Floats:
    """`step_time` of many plans, by T* and by sum T + RTT."""
    longest: Floats = np.maximum(slowest_s, way_s / (stale_it + 1))
    return longest


def sufficient_staleness(slowest_s: Floats, way_s: Floats) -> Floats:
    """`smallest_sufficient_staleness` of many plans, by T* and by sum T + RTT, as whole floats; NaN stays NaN."""
    ratio = np.divide(way_s, slowest_s, out=np.ones_like(way_s), where=slowest_s != 0)
    least: Floats = np.maximum(np.ceil(ratio - _ROUNDING) - 1, 0.0)
    return least


def paper_total_time(stages_s: Floats, remaining: float, stale_it: int) -> Floats:
    """Time of the remaining steps, as the published decision engine counts (Yao et al. 2021, its `decision` module).

    With r = ``remaining``, T0 = sum T: ``(r - 1) T* + T0 + (ceil(r / (K + 1)) - 1) * max(0, T0 - (K + 1) T*)``.
    K = 0 makes it the serial sum, r T0. It has no RTT.
    """
    slowest, way = stages_s.max(axis=0), stages_s.sum(axis=0)
    bubbles = math.ceil(remaining / (stale_it + 1)) - 1
    total: Floats = (remaining - 1) * slowest + way + bubbles * np.maximum(way - (stale_it + 1) * slowest, 0.0)
    return total


def switch_time(moved_bytes: Floats, rate_bps: Floats | float, way_s: Floats, step_s: Floats) -> Floats:
    """Pause of a run whose cut moves: the pipeline drains and fills again, and state crosses in between."""
    pause: Floats = moved_bytes * 8 / rate_bps + np.maximum(way_s - step_s, 0.0)
    return pause


def edge_energy(
    stages_s: Floats, step_s: Floats, busy_w: Floats | float, idle_w: float, transmit_w: float, receive_w: float
) -> Floats:
    """Energy of the edge in a step, in mJ: its radio while a direction is busy, and busy or idle power."""
    edge, uplink, _, downlink = stages_s
    joules = busy_w * edge + idle_w * np.maximum(step_s - edge, 0.0) + transmit_w * uplink + receive_w * downlink
    millijoules: Floats = 1e3 * joules
    return millijoules


def edge_memory(resident_bytes: Floats, under_way_bytes: Floats, stale_it: Floats | float) -> Floats:
    """Memory of the edge's tensors: what training its part takes, and inputs and messages of K + 1 steps."""
    taken: Floats = resident_bytes + (stale_it + 1) * under_way_bytes
    return taken


def staleness_that_fits(resident_bytes: Floats, under_way_bytes: Floats, budget_bytes: float) -> Floats:
    """The largest K within a memory budget; below 0 where not even K = 0 fits."""
    steps = (budget_bytes - resident_bytes) / np.maximum(under_way_bytes, 1.0)
    largest: Floats = np.floor(steps) - 1
    return largest
