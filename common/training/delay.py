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
