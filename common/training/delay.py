"""What is done about gradients being late, besides feature replay."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Delay:
    """What a head does about gradients that are K steps late."""

    lookahead: bool = False
    """Compute activations with the weights that are expected K steps on, when their gradients will be applied."""
    shrink: float = 1.0
    """Factor of late gradients."""


NO_CORRECTION = Delay()


FARTHEST = 2.0
"""No head looks ahead farther, in parts of how late its gradients are."""


@dataclass(frozen=True)
class Late:
    """What a head at the cloud is told to do about it; the edge tells it step by step.

    A step along a late gradient overshoots: with an optimizer with momentum, training is stable up to a learning rate
    that falls with K, and faster from K = 0 to 1 than behind it (docs/generative.md).
    """

    lookahead: float = 0.0
    """Compute activations with the weights that are expected so many times as far on as their gradients will be late;
    up to `FARTHEST`."""
    rate: float = 0.0
    """The head's learning rate is at most this / K of the first one; 0 sets no limit."""

    def most_rate(self, stale_it: int) -> float:
        """Largest factor of the head's learning rate at K."""
        return min(1.0, self.rate / stale_it) if self.rate and stale_it else 1.0


NOT_LATE = Late()
