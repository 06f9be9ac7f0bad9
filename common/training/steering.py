"""Who may ask for another plan of a run that trains: its schedule, its user, and what watches the network."""

import logging
from collections.abc import Callable, Mapping

from common.errors import UsageError
from common.training.control import Control
from common.training.loop import StepDone
from common.training.moving import Change
from common.training.pilot import Pilot
from common.wire.structs import Job

log = logging.getLogger(__name__)


class Steering:
    """Changes of a run's plan, as they become due between two steps.

    Args:
        scheduled: by the step before which they are due.
        control: requests of the user.
    """

    def __init__(self, scheduled: Mapping[int, Change], control: Control) -> None:
        self.scheduled = scheduled
        self._control = control
        self.pilot: Pilot | None = None
        """Decides about the plan while the run trains."""
        self._done_before = -1
        self._chosen: Change | None = None

    def observe(self, done: StepDone) -> None:
        """A step is over."""
        if self.pilot is not None:
            self.pilot.observe(done)

    def goes_on(self, step: int, *, done: bool) -> None:
        """The run goes on from a checkpoint before a step; ``done``: with what was due then."""
        self._done_before = step if done else -1

    def due(self, job: Job, step: int, remaining: int, *, alone: bool) -> bool:
        """Whether something is to be changed before a step's forward, and was not yet.

        An edge that trains ``alone`` has no plan to change; it tells those who ask.
        """
        if alone or self._control.waiting() or self._is_scheduled(step):
            return self._control.waiting() or not alone
        if self.pilot is not None:
            self._chosen = self.pilot.change(job, step, remaining)
        return self._chosen is not None

    def carry_out(self, step: int, change: Callable[[Change], str], *, alone: bool) -> None:
        """Change what is due; nothing is under way.

        Raises:
            UsageError: a scheduled change cannot be; what others ask for they are told about, and all stays as it is.
        """
        if self._is_scheduled(step) and not alone:
            self._done_before = step
            change(self.scheduled[step])
        self._control.answer(change)
        chosen, self._chosen = self._chosen, None
        if chosen is not None:
            try:
                change(chosen)
            except UsageError as error:
                log.warning("%s", error)
        if self.pilot is not None:
            self.pilot.resumed()

    def _is_scheduled(self, step: int) -> bool:
        return step in self.scheduled and step != self._done_before
