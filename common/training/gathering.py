"""Where the parties of a run come together on a server, before their first step and each time they go back to one."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from common.errors import JobRefused, SessionGone, TandemError
from common.naming import letter
from common.training.joint import Joint, Seat
from common.training.part_state import State
from common.training.prepare import Prepared
from common.wire.structs import Job

LONGEST_WAIT_S = 150.0
"""How long parties wait for each other at most: an edge waits 180 s for its session to open."""
_MOST_GROUPS = 1 << 10
_OF_A_PARTY = {
    "party": 0,
    "input_shape": (),
    "cut": 0,
    "cut_name": "",
    "splits": -1,
    "split_index": -1,
    "graph_digest": "",
    "weights_digest": "",
    "labels": "cloud",
    "compress_up": "",
    "compress_down": "",
    "stale_it": 0,
}
"""What of a job each party may have its own of."""


@dataclass(frozen=True)
class Comer:
    """A party that asks for its place."""

    prepared: Prepared
    job: Job
    checkpoints: Mapping[int, int] | None = None
    """Of a session that goes on: number of each checkpoint that both sides have, by the step that was due in it."""
    state: Callable[[int], State] = lambda _number: {}
    """The joint tail's state in a checkpoint."""


@dataclass
class _Circle:
    comers: dict[int, Comer] = field(default_factory=dict)
    joint: Joint | None = None
    step: int = 0
    error: TandemError | None = None


class Gatherings:
    """The runs of several parties on a server.

    Args:
        make: makes the joint tail of a run of all its parties, in order; with a state where it goes on.
        wait_s: how long parties wait for each other.
    """

    def __init__(self, make: Callable[[list[Comer], State | None], Joint], wait_s: float) -> None:
        self._make, self._wait_s = make, wait_s
        self._known: OrderedDict[str, int] = OrderedDict()
        self._circles: dict[str, _Circle] = {}
        self._live: dict[str, Joint] = {}
        self._changed = threading.Condition()

    def allow(self, group: str, parties: int) -> None:
        """Some parties have agreed on a name for their run."""
        with self._changed:
            self._known[group] = parties
            while len(self._known) > _MOST_GROUPS:
                self._known.popitem(last=False)

    def sit(self, comer: Comer) -> tuple[Seat, int]:
        """Wait for all parties of a run; the place at their tail, and the checkpoint to go on from (0 of a new run).

        Raises:
            JobRefused: there is no such run, the place is taken, the jobs do not fit, or some party did not come.
            SessionGone: there is no checkpoint that all have.
        """
        job = comer.job
        with self._changed:
            self._admit(comer)
            circle = self._circles.setdefault(job.group, _Circle())
            circle.comers[job.party] = comer
            if len(circle.comers) == job.parties:
                del self._circles[job.group]
                self._close(circle)
            self._changed.notify_all()
            self._changed.wait_for(lambda: _over(circle, comer), self._wait_s)
            if circle.comers.get(job.party) is not comer:
                raise JobRefused(f"party {letter(job.party)} has asked again meanwhile")
            if circle.error is not None:
                raise type(circle.error)(str(circle.error))
            if circle.joint is None:
                missing = [letter(each) for each in range(job.parties) if each not in circle.comers]
                del circle.comers[job.party]
                raise JobRefused(
                    f"party {', '.join(missing)} of the run did not come within {self._wait_s:g} s; start it, then go "
                    "on with --resume"
                )
            number = 0 if comer.checkpoints is None else comer.checkpoints[circle.step]
            return Seat(circle.joint, job.party), number

    def _admit(self, comer: Comer) -> None:
        """Raises JobRefused where nobody may sit here who comes like this."""
        job, name = comer.job, letter(comer.job.party)
        live = self._live.get(job.group)
        if comer.checkpoints is not None:
            if live is not None:  # its own session has ended already: all others go back, too
                live.leave(job.party)
                del self._live[job.group]
        elif live is not None and not live.ended:
            raise JobRefused(f"party {name} of this run is here already")
        elif self._known.get(job.group) != job.parties:
            raise JobRefused(f"no run of {job.parties} parties is called {job.group!r} here; parties align first")
        elif job.group in self._circles and job.party in self._circles[job.group].comers:
            raise JobRefused(f"party {name} of this run is here already")

    def _close(self, circle: _Circle) -> None:
        """All are there: make their tail."""
        comers = [circle.comers[party] for party in range(len(circle.comers))]
        group = comers[0].job.group
        try:
            _require_alike(comers)
            state = None
            if comers[0].checkpoints is not None:
                circle.step = _newest(comers)
                state = comers[0].state(comers[0].checkpoints[circle.step])
            circle.joint = self._live[group] = self._make(comers, state)
        except TandemError as error:
            circle.error = error
        for other in [name for name, joint in self._live.items() if joint.ended]:
            del self._live[other]


def _over(circle: _Circle, comer: Comer) -> bool:
    return circle.joint is not None or circle.error is not None or circle.comers.get(comer.job.party) is not comer


def _newest(comers: list[Comer]) -> int:
    """The last step with a checkpoint of all parties on both sides."""
    common = set.intersection(*(set(each.checkpoints or ()) for each in comers))
    if not common:
        told = "; ".join(f"{letter(each.job.party)} at {sorted(each.checkpoints or ())[:9]}" for each in comers)
        raise SessionGone(f"the parties have no checkpoint of the same step (party {told})")
    return max(common)


def _require_alike(comers: list[Comer]) -> None:
    """Raises JobRefused where the parties do not train the same."""
    if len({each.checkpoints is None for each in comers}) > 1:
        raise JobRefused("some parties begin a run, and others go on with one; start all anew, or --resume all")
    first, *others = [msgspec.structs.replace(each.job, **_OF_A_PARTY) for each in comers]
    for number, job in enumerate(others, start=1):
        for name in Job.__struct_fields__:
            mine, its = getattr(first, name), getattr(job, name)
            if mine != its:
                raise JobRefused(
                    f"party A was started with {name} {mine}, party {letter(number)} with {its}; use the same"
                )
    owners = [letter(each.job.party) for each in comers if each.job.labels == "edge"]
    if len(owners) > 1:
        raise JobRefused(f"the labels are with {' and '.join(owners)}; start all parties with the same --label_owner")
