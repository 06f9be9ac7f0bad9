"""Steers a run: watches its steps and its link, decides now and then, and keeps a log of the decisions."""

import logging
import time
from dataclasses import dataclass, field

from common.errors import UsageError
from common.link.contexts import LinkContext
from common.planning.adapt import Adapter, Following
from common.planning.log import Choice, Context, Decision, PlanLog
from common.planning.plan import Plan
from common.training.company import Company
from common.training.loop import StepDone
from common.training.monitor import LinkMonitor
from common.training.moving import Change
from common.wire.structs import Job

log = logging.getLogger(__name__)


@dataclass
class _Since:
    """Steps since the last decision."""

    steps: int = 0
    begun_s: float = field(default_factory=time.perf_counter)
    ended_s: float = 0.0
    edge_s: float = 0.0
    cloud_s: float = 0.0
    steady: int = 0

    @property
    def step_s(self) -> float | None:
        return (self.ended_s - self.begun_s) / self.steps if self.steps else None


class Pilot:
    """Of one run; `observe` and `change` are called by the thread that trains.

    Args:
        adapter: decides.
        monitor: what is known of the link.
        plans: takes the decisions.
        every_s: seconds between two looks at the plan; 0 decides once, before the run.
        company: the other parties, of one that trains with others.
        before_s: how long the run has gone on already.
    """

    def __init__(
        self,
        adapter: Adapter,
        monitor: LinkMonitor,
        plans: PlanLog,
        *,
        every_s: float,
        company: Company | None = None,
        before_s: float = 0.0,
    ) -> None:
        self._adapter, self._monitor, self._plans, self._every_s = adapter, monitor, plans, every_s
        self._company = company
        self._looked_s = time.perf_counter()
        self._started_s = self._looked_s - before_s
        self._since = _Since()

    def begin(self, plan: Plan, step: int, context: Context, reason: str) -> None:
        """Log the plan that the run begins with."""
        self._write(plan, step, context, reason)

    def observe(self, done: StepDone) -> None:
        """A step is over."""
        since = self._since
        since.steps += 1
        since.ended_s = done.ended_s
        if done.steady:
            since.steady += 1
            since.edge_s += done.numbers.stages_s["edge"]
            since.cloud_s += done.numbers.stages_s["cloud"]

    def change(self, job: Job, step: int, remaining: int) -> Change | None:
        """What of the plan is to be another before a step; None where it stays."""
        now_s = time.perf_counter()
        if not self._every_s or now_s - self._looked_s < self._every_s:
            return None
        self._looked_s = now_s
        known = self._monitor.context()
        context = link_of(known)
        if context is None or (self._company is not None and not self._company.complete):
            return None
        following = Following(job.cut, job.cut_name, job.compress_up, job.compress_down, job.stale_it)
        since = self._since
        try:
            if since.steady:
                self._adapter.measured(following, context, since.edge_s / since.steady, since.cloud_s / since.steady)
            if self._company is not None:
                self._company.meet(context, self._monitor.spread())
            verdict = self._adapter.look(following, context, now_s, remaining, self._monitor.spread())
        except UsageError as error:  # a plan that was set by hand, which no profile has
            log.debug("%s", error)
            return None
        self._write(verdict.plan, step, known, verdict.reason)
        if not verdict.switch:
            return None
        log.info("planning: %s", verdict.reason)
        return change_to(verdict.plan)

    def resumed(self) -> None:
        """The time until now was no training."""
        self._since = _Since()

    def _write(self, plan: Plan, step: int, context: Context, reason: str) -> None:
        self._plans.add(
            Decision(
                step,
                time.perf_counter() - self._started_s,
                context,
                Choice(plan.cut, plan.codec_up, plan.codec_down, plan.stale_it),
                plan.prediction.step_s,
                self._since.step_s,
                reason,
            )
        )
        self._since = _Since()


def change_to(plan: Plan) -> Change:
    """The change that makes a run follow a plan."""
    return Change(plan.cut, plan.codec_up, plan.codec_down, plan.stale_it)


def link_of(context: Context) -> LinkContext | None:
    """The link as plans take it; None where something of it is not known yet."""
    if context.up_bps is None or context.down_bps is None or context.rtt_s is None:
        return None
    return LinkContext("now", context.up_bps / 1e6, context.down_bps / 1e6, 1e3 * context.rtt_s)
