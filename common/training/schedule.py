"""Which step comes next: the schedule of the head, as a pure function.

At most K + 1 batches are under way: the head may run K forwards ahead of the gradient it still needs. ``fixed``
applies the gradient of step t - K exactly before the forward of step t + 1, whenever it came; ``eager`` applies
each gradient as soon as it is there. An epoch's end drains. ``F2`` is the forward of step 2, ``B2`` its backward:

    K = 0           F0 B0 F1 B1 F2 B2 F3 B3
    K = 1, fixed    F0 F1 B0 F2 B1 F3 B2 B3
    K = 2, fixed    F0 F1 F2 B0 F3 B1 B2 B3
    K = 2, eager    F0 B0 F1 B1 F2 B2 F3 B3     where every answer is there at once; else towards ``fixed``

(Feature replay with bounded staleness: Yao et al. 2021; Huo et al. 2018.)
"""

from enum import Enum


class Schedule(str, Enum):
    """When the head applies a gradient that has arrived."""

    FIXED = "fixed"
    EAGER = "eager"


class Action(Enum):
    """What the head does next. `BACKWARD` waits for the answer where it has not arrived."""

    FORWARD = "forward"
    BACKWARD = "backward"
    DONE = "done"


def next_action(schedule: Schedule, stale_it: int, total: int, forwarded: int, applied: int, arrived: int) -> Action:
    """The head's next action in an epoch.

    Args:
        schedule: `Schedule.FIXED` or `Schedule.EAGER`.
        stale_it: staleness bound K.
        total: steps of the epoch.
        forwarded: forwards done so far.
        applied: gradients applied so far.
        arrived: gradients that have arrived so far, applied ones included.
    """
    if applied == total:
        return Action.DONE
    must = forwarded - applied > stale_it or forwarded == total
    may = schedule is Schedule.EAGER and arrived > applied
    return Action.BACKWARD if must or may else Action.FORWARD
