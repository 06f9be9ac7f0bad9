"""A party that plans among others: it tells them how fast a step of its own could be, and reckons with theirs."""

from collections.abc import Callable

from common.link.contexts import LinkContext
from common.planning.adapt import Adapter
from common.planning.context import Spread
from common.planning.problem import Partners
from common.training.pace import NOT_PLANNED, Pace, Paces


class Company:
    """The other parties of a run, as a party that looks at its plan again knows them.

    Args:
        adapter: decides for this party.
        paces: carried by the pings of its session.
        turn_s: over a link, how long a step's outputs and their gradients are on their way; None where this party does
            not have the labels.
    """

    def __init__(self, adapter: Adapter, paces: Paces, turn_s: Callable[[LinkContext], float] | None) -> None:
        self._adapter, self._paces, self._turn_s = adapter, paces, turn_s

    @property
    def complete(self) -> bool:
        """Whether all others have told their pace."""
        return self._paces.others is not None

    def meet(self, link: LinkContext, spread: Spread) -> None:
        """Tell the others what this party's link and devices make possible now; reckon with what they have told.

        No step can be shorter than the slowest party's best, so that is what a plan need not be better than.

        Raises:
            UsageError: no plan is within the limits.
        """
        others = self._paces.others or NOT_PLANNED
        turn_s = others.turn_s if self._turn_s is None else self._turn_s(link)
        here = self._turn_s is not None
        self._adapter.reckon_with(Partners(0.0, turn_s, here))
        own_s = self._adapter.own_step_s(link, spread)
        self._paces.own = Pace(own_s, turn_s if here else 0.0)
        self._adapter.reckon_with(Partners(max(own_s, others.step_s), turn_s, here))
