"""How long a step takes: closed forms, pure. All times in seconds.

T are the stage times [edge, uplink, cloud, downlink], T* the largest of them. A step's way through all stages
takes ``sum T + RTT``; with bound K, K + 1 steps are on that way at once, unless the slowest stage holds them up:

    step = max(T*, (sum T + RTT) / (K + 1))
"""

import math
from collections.abc import Sequence


def step_time(stages_s: Sequence[float], rtt_s: float, stale_it: int) -> float:
    """Step time in the steady state, with staleness bound K = ``stale_it``."""
    return max(*stages_s, (sum(stages_s) + rtt_s) / (stale_it + 1))


def smallest_sufficient_staleness(stages_s: Sequence[float], rtt_s: float) -> int:
    """The least K at which the slowest stage alone sets the step time: ceil((sum T + RTT) / T*) - 1."""
    slowest = max(stages_s)
    return max(math.ceil((sum(stages_s) + rtt_s) / slowest - 1e-9) - 1, 0) if slowest > 0 else 0
