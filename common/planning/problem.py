"""What a plan is asked for: two devices, a link, what may be chosen, and what counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.naming import nearest
from common.planning.cost import step_time
from common.planning.losses import LossTable
from common.profiling.profile import Profile

Goal = Literal["time", "energy", "weighted"]
Way = Literal["up", "down"]

MESSAGE_BYTES = 300
"""Header of a message, and labels and ids of a batch of 32."""


@dataclass(frozen=True)
class Power:
    """Electrical power of the edge, in W."""

    busy_w: float = 0.0
    """While it computes; a profile with measured energy goes before this."""
    idle_w: float = 0.0
    """While it does not."""
    transmit_w: float = 0.0
    """In addition, while the uplink is busy."""
    receive_w: float = 0.0
    """In addition, while the downlink is busy."""


@dataclass(frozen=True)
class Objective:
    """What is to be small, among the plans that are allowed."""

    goal: Goal = "time"
    """Step time; energy of the edge in a step; or both, each against the least that any plan reaches."""
    energy_weight: float = 0.5
    """Of ``weighted``: 0 is time alone, 1 energy alone."""


@dataclass(frozen=True)
class Limits:
    """What a plan must not exceed; None where there is no limit."""

    edge_memory_bytes: float | None = None
    """Of the tensors of the edge."""
    loss_points: float | None = None
    """Accuracy lost to the codecs. A pair that the table does not know is not allowed."""


@dataclass(frozen=True)
class Current:
    """The plan that a run follows now, where it is to be changed."""

    cut: int
    remaining: float
    """Steps that the new plan is expected to live for; what a switch costs is divided among them."""


@dataclass(frozen=True)
class Partners:
    """What an edge knows of others that train one model with it: the cloud has more of that than this edge's profile.

    A step of all takes as long as one of the slowest. Where the labels are at an edge, the outputs go there, and the
    loss's gradients back, within each step.
    """

    step_s: float = 0.0
    """No step is shorter, whatever is chosen here."""
    turn_s: float = 0.0
    """Of the way of a step: from its outputs at the cloud to their gradients there; 0 with the labels at the cloud."""
    turns_here: bool = False
    """Whether that is this edge, which uploads nothing else meanwhile."""

    def step_time(self, stages_s: Sequence[float], rtt_s: float, stale_it: int) -> float:
        """`common.planning.cost.step_time` of an edge that trains with them."""
        _, uplink_s, cloud_s, _ = stages_s
        turned_s = uplink_s + cloud_s + self.turn_s if self.turns_here else 0.0
        return max(step_time(stages_s, rtt_s + self.turn_s, stale_it), turned_s, self.step_s)


ALONE = Partners()
"""Of an edge that trains with its cloud alone."""


@dataclass(frozen=True)
class Problem:
    """All that a strategy decides by."""

    edge: Profile
    cloud: Profile
    context: LinkContext
    codecs_up: tuple[str, ...] = ()
    """What may encode what goes up: activations, or gradients of an edge with the tail; empty takes all."""
    codecs_down: tuple[str, ...] = ()
    """The same of what comes down."""
    stale_it: int | None = None
    """K; None takes the smallest that saturates the slowest stage."""
    max_stale_it: int = 16
    """The largest K that may be taken."""
    edge_holds: Literal["head", "tail"] = "head"
    """Which part the edge computes: activations go up from a head, down to a tail.

    An edge with the tail has the data all the same: it sends the model's inputs with the gradients of the step before.
    """
    target_bytes: float = 0.0
    """Of what the loss of a step compares with; an edge with the tail keeps it until the step is over."""
    objective: Objective = Objective()
    limits: Limits = Limits()
    partners: Partners | None = None
    """Of an edge that does not train alone with its cloud."""
    losses: LossTable = field(default_factory=LossTable)
    power: Power | None = None
    current: Current | None = None
    message_bytes: int = MESSAGE_BYTES

    @property
    def local(self) -> list[int]:
        """Place of the cut with which the edge computes all by itself, in a list; none where it never does."""
        if self.partners is not None:
            return []
        return [len(self.edge.cuts) - 1 if self.edge_holds == "head" else 0]

    def __post_init__(self) -> None:
        _check_same(self.edge, self.cloud)
        ways: tuple[tuple[Way, tuple[str, ...]], ...] = (("up", self.codecs_up), ("down", self.codecs_down))
        for way, asked in ways:
            known = served(self, way)
            for codec in asked:
                if codec not in known:
                    raise UsageError(f"not both profiles have codec {codec!r} {way}; {nearest(codec, known)}")
        if self.stale_it is not None and self.stale_it < 0:
            raise UsageError(f"K is {self.stale_it}; it must be at least 0")


def served(problem: Problem, way: Way) -> list[str]:
    """Codecs that both profiles have for what goes a way."""
    activations = way == ("up" if problem.edge_holds == "head" else "down")
    tables = [each.activations if activations else each.gradients for each in (problem.edge, problem.cloud)]
    return [codec for codec in tables[0] if codec in tables[1]]


def _check_same(edge: Profile, cloud: Profile) -> None:
    """Both profiles must be of the same thing."""
    for what, ours, theirs in (
        ("models", edge.digest or edge.model, cloud.digest or cloud.model),
        ("batch sizes", edge.batch_size, cloud.batch_size),
        ("cuts", edge.cuts, cloud.cuts),
    ):
        if ours != theirs:
            raise UsageError(
                f"{edge.source} ({edge.model}, batch size {edge.batch_size}, {len(edge.cuts)} cuts) and {cloud.source} "
                f"({cloud.model}, batch size {cloud.batch_size}, {len(cloud.cuts)} cuts) are of different {what}; "
                "profile both devices in the same way"
            )
