"""What several edges learn together on one server (SplitFed, Thapa et al. 2022).

``tail``: all train one common tail in turn, step by step (SplitFed-V2's server side). ``average``: each has a head and
a tail of its own, and behind each epoch all parts become their mean, weighted by the edges' samples (SplitFed-V1).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import msgspec
import torch

from common.errors import ConnectionLost
from common.training.part_state import State
from common.training.station import CloudHalf
from common.training.turns import Turns
from common.wire.structs import Job


class Share(str, Enum):
    """What the sessions of a server have in common."""

    NONE = "none"
    TAIL = "tail"
    AVERAGE = "average"


@dataclass
class Group:
    """Sessions that train the same job on data of their own."""

    rounds: "Rounds"
    turns: Turns = field(default_factory=lambda: Turns(1))
    """Of a common tail."""
    tail: CloudHalf | None = None
    """The first member's; its part and its optimizer are all members'."""
    members: set[str] = field(default_factory=set)

    def meeting(self, name: str, samples: int) -> Callable[[State, State], tuple[State, State, int]]:
        """What a member calls behind each epoch: (head, tail) -> their means, and of how many."""

        def meet(head: State, tail: State) -> tuple[State, State, int]:
            mean, edges = self.rounds.mean(name, Parts(max(samples, 1), head, tail))
            return mean.head, mean.tail, edges

        return meet


class Groups:
    """The groups of a server, each as long as it has members.

    Args:
        share: what their members have in common.
        clients: members that must have come before a group's first mean is taken.
    """

    def __init__(self, share: Share, clients: int) -> None:
        self.share = share
        self._clients = clients
        self._groups: dict[Job, Group] = {}
        self._lock = threading.Lock()

    def join(self, name: str, job: Job) -> tuple[Group, Callable[[], None]]:
        """The group of a job, and what to call when the session ends."""
        same = _common(job)
        with self._lock:
            group = self._groups.setdefault(same, Group(Rounds(self._clients)))
            group.members.add(name)
        group.rounds.join(name)

        def leave() -> None:
            group.rounds.leave(name)
            with self._lock:
                group.members.discard(name)
                if not group.members and self._groups.get(same) is group:
                    del self._groups[same]

        return group, leave


@dataclass(frozen=True)
class Parts:
    """What a session brings to a mean."""

    samples: int
    head: State
    tail: State


class Rounds:
    """Where the members of a group meet behind each epoch.

    A member that ends or is lost for good is waited for no more.

    Args:
        expected: members that must have come before the first mean.
    """

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._members: set[str] = set()
        self._brought: dict[str, Parts] = {}
        self._taken: dict[str, tuple[Parts, int]] = {}
        self._changed = threading.Condition()

    def join(self, name: str) -> None:
        """One more takes part."""
        with self._changed:
            self._members.add(name)
            self._missing -= 1

    def leave(self, name: str) -> None:
        """One takes part no more; may be called twice."""
        with self._changed:
            self._members.discard(name)
            self._brought.pop(name, None)
            self._meet()
            self._changed.notify_all()

    def mean(self, name: str, parts: Parts) -> tuple[Parts, int]:
        """Wait until all members have brought theirs; the mean, and of how many it is.

        Raises:
            ConnectionLost: the member has left meanwhile.
        """
        with self._changed:
            self._brought[name] = parts
            self._meet()
            self._changed.wait_for(lambda: name in self._taken or name not in self._members)
            if name not in self._taken:
                raise ConnectionLost("the session has ended while it waited for the others")
            return self._taken.pop(name)

    def _meet(self) -> None:
        """Take the mean, where nobody is missing."""
        if not self._brought or self._brought.keys() != self._members or self._missing > 0:
            return
        # In an order that does not depend on who was first: sums are rounded.
        brought = sorted(self._brought.values(), key=lambda each: each.samples)
        weights = [each.samples for each in brought]
        mean = Parts(
            sum(weights),
            _mean([each.head for each in brought], weights),
            _mean([each.tail for each in brought], weights),
        )
        self._taken = dict.fromkeys(self._brought, (mean, len(brought)))
        self._brought = {}
        self._changed.notify_all()


def _mean(states: list[State], weights: list[int]) -> State:
    """The weighted mean of values; of whole numbers (batches that BatchNorm has seen) the largest."""
    total = sum(weights)
    mean: State = {}
    for key, first in states[0].items():
        values = [state[key] for state in states]
        if first.is_floating_point():
            summed = sum((w * value.double() for w, value in zip(weights, values, strict=True)), torch.zeros(()))
            mean[key] = (summed / total).to(first.dtype)
        else:
            mean[key] = torch.stack(values).amax(0) if first.dtype != torch.bool else first
    return mean


def _common(job: Job) -> Job:
    """A job without what its members may each have their own of."""
    return msgspec.structs.replace(
        job, epochs=0, samples=0, compress_up="", compress_down="", stale_it=0, splits=-1, split_index=-1
    )
