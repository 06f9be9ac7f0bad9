"""What one device takes for a model, by cut: the tables that a plan is made of.

Arrays have one place for each cut, from the first (all of the model in the tail) to the last (all in the head).
NaN stands for what nobody measured. Times are of one batch, in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CodecCost:
    """A codec in one direction, by cut."""

    nbytes: Floats
    """What travels; 0 where nothing does."""
    encode_s: Floats
    decode_s: Floats


@dataclass(frozen=True)
class Profile:
    """A device's times and a model's sizes, by cut."""

    source: str
    """Where it is from, for messages."""
    model: str
    device: str
    digest: str
    """Of the model's graph; empty where unknown."""
    batch_size: int
    cuts: tuple[int, ...]
    """Indices of the cuts in `Graph.points`; in the published tables, numbers of slices before the cut."""
    names: tuple[str, ...]
    safe: NDArray[np.bool_]
    """Whether training may be cut there."""
    head_s: Floats
    """Head, K > 0: forward pass, and where a gradient comes back replay, backward pass and update."""
    head_kept_s: Floats
    """Head, K = 0: its graph is kept, so there is no replay."""
    tail_s: Floats
    """Tail: forward and backward pass and update."""
    head_forward_s: Floats
    """Inference: forward pass of the head."""
    tail_forward_s: Floats
    """Inference: forward pass of the tail."""
    parameter_bytes: Floats
    """Parameters and buffers of the head."""
    optimizer_bytes: Floats
    """State of the head's optimizer."""
    saved_bytes: Floats
    """What the head's graph keeps for its backward pass."""
    head_mj: Floats
    """Energy of the head's step at K > 0."""
    tail_mj: Floats
    """Energy of the tail's step."""
    input_bytes: float
    """The model's inputs."""
    activations: Mapping[str, CodecCost] = field(default_factory=dict)
    """From head to tail, by codec; ``none`` has what crosses as it is."""
    gradients: Mapping[str, CodecCost] = field(default_factory=dict)
    """From tail to head, by codec."""

    @property
    def local_s(self) -> float:
        """Training on this device alone: no replay, no codec, no link."""
        return float(self.head_kept_s[-1])

    @property
    def whole_s(self) -> float:
        """The whole model as a tail."""
        return float(self.tail_s[0])

    @property
    def head_peak_bytes(self) -> Floats:
        """The most memory that training the head takes at K = 0, of tensors alone, as estimated.

        Parameters, their gradients, the optimizer's state, what the graph keeps, what crosses and its gradient.
        """
        sent = self.activations["none"].nbytes.copy()
        sent[0] = 0.0  # the inputs themselves, which are there anyway
        peak: Floats = 2 * self.parameter_bytes + self.optimizer_bytes + self.saved_bytes + sent + self._returned
        return peak

    @property
    def tail_peak_bytes(self) -> Floats:
        """The same of training the tail."""
        parameters, optimizer, saved = (
            each[-1] - each for each in (self.parameter_bytes, self.optimizer_bytes, self.saved_bytes)
        )
        peak: Floats = 2 * parameters + optimizer + saved + self.activations["none"].nbytes + self._returned
        return peak

    @property
    def state_bytes(self) -> Floats:
        """What moves when the cut moves: parameters, buffers, and the optimizer's state of the head."""
        return self.parameter_bytes + self.optimizer_bytes

    @property
    def _returned(self) -> Floats:
        return self.gradients["none"].nbytes


def longer_tail(profile: Profile, seconds: float) -> Profile:
    """The profile of a device that does more in each step than its tail, for so long: the loss, say."""
    watts = profile.tail_mj[0] / profile.tail_s[0] if profile.tail_s[0] else 0.0
    return replace(profile, tail_s=profile.tail_s + seconds, tail_mj=profile.tail_mj + watts * seconds)
