"""How fast a step could be, if it were up to one party: what each of several tells the others, and hears of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import ProtocolError

_LONGEST_STEP_S = 86400.0


@dataclass(frozen=True)
class Pace:
    """How fast a step can be, as parties have planned; of one of them, or of several: the slowest counts."""

    step_s: float = 0.0
    """A step, if it were up to them; 0 where nobody has planned."""
    turn_s: float = 0.0
    """From a step's outputs at the cloud to their gradients there, of the party with the labels; else 0."""

    @classmethod
    def received(cls, step_s: float, turn_s: float) -> "Pace":
        """Checked: what a peer has sent.

        Raises:
            ProtocolError: no step can take so long.
        """
        for value in (step_s, turn_s):
            if not 0 <= value <= _LONGEST_STEP_S:
                raise ProtocolError(f"a step is said to take {value:g} s; it can be 0 to {_LONGEST_STEP_S:g} s")
        return cls(step_s, turn_s)


NOT_PLANNED = Pace()


def slowest(paces: Iterable[Pace]) -> Pace:
    """Of several."""
    known = [NOT_PLANNED, *paces]
    return Pace(max(each.step_s for each in known), max(each.turn_s for each in known))


@dataclass
class Paces:
    """While a party trains: written by the threads that plan and that ping, read by both."""

    own: Pace = NOT_PLANNED
    """What the others are told."""
    others: Pace | None = None
    """The slowest of what they have told; None until all have."""
