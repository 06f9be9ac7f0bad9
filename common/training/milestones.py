"""Steps of a learning rate that a run asks for: epochs at whose start it falls. No torch: a session checks them too."""

from collections.abc import Sequence
from itertools import pairwise

from common.errors import UsageError

MAX_MILESTONES = 64


def check_milestones(milestones: Sequence[int], gamma: float) -> None:
    """Raises UsageError where the steps of a learning rate make no sense."""
    if not all(earlier < later for earlier, later in pairwise((-1, *milestones))):
        raise UsageError(f"--milestones are {' '.join(map(str, milestones))}; each must be later than the one before")
    if len(milestones) > MAX_MILESTONES:
        raise UsageError(f"--milestones are {len(milestones)}; {MAX_MILESTONES} are the most")
    if not 0 <= gamma <= 1:
        raise UsageError(f"--gamma is {gamma}; it goes from 0 to 1")
