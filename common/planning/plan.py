"""A plan: where to cut, how to encode, how stale to be, and what is predicted of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stages:
    """Times of a step's stages, in seconds."""

    edge: float
    uplink: float
    cloud: float
    downlink: float


@dataclass(frozen=True)
class Prediction:
    """What a plan is expected to do."""

    step_s: float
    """A step in the steady state."""
    stages_s: Stages
    limit_s: float
    """The slowest stage: no K makes a step shorter."""
    pause_s: float
    """What the switch from the current plan costs once; 0 without one."""
    memory_bytes: float
    """Tensors of the edge; NaN where the profile does not know."""
    energy_mj: float
    """Energy of the edge in a step; NaN where neither meter nor power is known."""
    loss_points: float
    """Accuracy that the codecs lose; NaN where nobody measured it."""


@dataclass(frozen=True)
class Plan:
    """What a strategy chose."""

    strategy: str
    cut: int
    """Index of the cut, as the profiles count."""
    cut_name: str
    local: bool
    """Whether the edge computes all by itself: no link, no codec, no cloud."""
    codec_up: str
    """Of what goes up: activations, or gradients of an edge with the tail."""
    codec_down: str
    """Of what comes down."""
    stale_it: int
    """K."""
    prediction: Prediction

    def __str__(self) -> str:
        where = "all on the edge" if self.local else f"cut {self.cut} ({self.cut_name})"
        how = "" if self.local else f", {self.codec_up} up, {self.codec_down} down, K = {self.stale_it}"
        return f"{where}{how}: {1e3 * self.prediction.step_s:.1f} ms a step"
