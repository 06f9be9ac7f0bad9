"""Does following a network pay, and what would? ``python -m benchmarks.policy --trace_up FILE --trace_down FILE``.

Nothing is run: steps over a trace are arithmetic (`benchmarks.policy_line`), with the times of profiles, while
estimate, probes and decisions are the project's own. So many jobs and phases of a trace take seconds, and all plans
meet exactly the same network. What `benchmarks.follow` measures for one job, this asks for many:

- ``best fixed``: the plan that is best over all phases, of those that are best at some rate of the trace and all on the
  edge. Nobody knows it beforehand. The other columns are in parts of its time.
- ``worst fixed``: the worst of them.
- ``adaptive``: as a run with ``--plan ours`` does; ``first``: with its first plan kept; ``at the mean``: the same as
  adaptive, but with plans for the estimated rate alone, as if the link did not swing.
- ``foresight``: at each look the plan that is best by the true rates of the next ten seconds, each by itself; it knows
  what cannot be known, and a switch costs it as much as any other.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from benchmarks.follow import deciles
from benchmarks.policy_line import Lane, LinkView, Pipeline, Work
from benchmarks.table import print_table
from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.link.contexts import LinkContext
from common.link.trace import Trace
from common.link.trace_file import read_trace
from common.planning.adapt import Adapter, Following, scaled
from common.planning.context import Spread
from common.planning.cost import step_time
from common.planning.plan import Plan
from common.planning.problem import Problem
from common.planning.strategies import Fixed, Ours
from common.planning.swings import STEADY
from common.profiling.load import load
from common.training.pilot import link_of

AHEAD_S = 10
"""What foresight sees."""
_LEAST_BPS = 1e4

Steer = Callable[[Pipeline, Plan, int], Plan]
"""Which plan to follow: by the pipeline, the plan of the moment, and the steps that are left."""


@dataclass(frozen=True)
class Options:
    """Adaptive and fixed plans over a trace, by arithmetic."""

    trace_up: Path | None = None
    """Trace of the way up."""
    trace_down: Path | None = None
    """Trace of the way down."""
    rtt_ms: float = 40.0
    """Round trip of the link."""
    profiles: tuple[str, ...] = ("profile/resnet20-xeon-1thread.csv", "profile/VGG11-xeon-1thread.csv")
    """Profiles of models; each is that of edge and cloud."""
    codecs: tuple[str, ...] = ("none,int8,int4/c+zstd", "none,int8", "none")
    """Codecs to choose from both ways, a job for each."""
    slowdown: tuple[float, ...] = (2.0, 4.0)
    """How much slower than its profile the edge is, a job for each."""
    cloud_speed: float = 1.0
    """How much faster than its profile the cloud is."""
    seconds: float = 60.0
    """About how long a run takes."""
    phases: tuple[float, ...] = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0)
    """Seconds into the trace at which runs begin to train."""
    replan_s: float = 2.0
    """Seconds between two looks at the plan."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Job:
    """A job over the phases of a trace."""

    problem: Problem
    up: Trace
    down: Trace
    steps: int
    phases: tuple[float, ...]
    replan_s: float

    def view(self, phase_s: float) -> LinkView:
        """The link of a run."""
        return LinkView(Lane(self.up, phase_s), Lane(self.down, phase_s), self.problem.context.rtt_ms / 1e3)


@dataclass(frozen=True)
class Row:
    """A job's results; times of all phases together."""

    job: str
    best: str
    best_s: float
    worst_fixed: float
    adaptive: float
    switches: float
    """Of a run, in the mean."""
    first: float
    at_the_mean: float
    foresight: float


def main() -> None:
    """All jobs, and the table."""
    options = parse(Options)
    if options.trace_up is None or options.trace_down is None:
        raise UsageError("both ways need a trace: give --trace_up and --trace_down")
    if not options.phases:
        raise UsageError("no run was asked for: give --phases at least one number of seconds")
    rows = []
    for name, job in jobs(options, read_trace(options.trace_up, "up"), read_trace(options.trace_down, "down")):
        ups = deciles(options.trace_up, "up", 5.0, 0.0)
        rows.append(compare(name, job, fixed_plans(job, ups, deciles(options.trace_down, "down", 5.0, 0.0))))
    print_table([asdict(row) for row in rows])
    print()
    for column in ("worst_fixed", "adaptive", "first", "at_the_mean", "foresight"):
        print(f"{column}: {geometric_mean(getattr(row, column) for row in rows):.3f} of the best fixed plans' time")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows]))


def jobs(options: Options, up: Trace, down: Trace) -> Iterator[tuple[str, Job]]:
    """All jobs that were asked for, with their names."""
    mean = LinkContext("mean", up.mean_bps / 1e6, down.mean_bps / 1e6, options.rtt_ms)
    for path in options.profiles:
        profile = load(path)
        for slowdown in options.slowdown:
            for each in options.codecs:
                codecs = tuple(each.split(","))
                edge, cloud = scaled(profile, slowdown), scaled(profile, 1 / options.cloud_speed)
                problem = Problem(edge, cloud, mean, codecs_up=codecs, codecs_down=codecs)
                steps = math.ceil(options.seconds / Ours().decide(problem).prediction.step_s)
                name = f"{profile.model}, edge / {slowdown:g}, {each}"
                yield name, Job(problem, up, down, steps, options.phases, options.replan_s)


def fixed_plans(job: Job, ups: Sequence[float], downs: Sequence[float]) -> list[Plan]:
    """The best plan for each pair of rates, each once, and all on the edge."""
    found = {}
    for up, down in zip(ups, downs, strict=True):
        link = replace(job.problem.context, up_mbps=up, down_mbps=down)
        plan = Ours().decide(replace(job.problem, context=link))
        found[_kind(plan)] = plan
    local = Fixed(job.problem.edge.cuts[-1], "none", "none", 0).decide(
        replace(job.problem, codecs_up=(), codecs_down=())
    )
    return [*(each for each in found.values() if not each.local), local]


def compare(name: str, job: Job, plans: Sequence[Plan]) -> Row:
    """All ways to choose, over all phases."""
    fixed_s = [sum(run(job, job.view(phase), plan)[0] for phase in job.phases) for plan in plans]
    best_s = min(fixed_s)
    adaptive = [adapt(job, phase) for phase in job.phases]
    return Row(
        name,
        str(plans[fixed_s.index(best_s)]).rpartition(":")[0],
        best_s,
        max(fixed_s) / best_s,
        sum(seconds for seconds, _ in adaptive) / best_s,
        sum(switches for _, switches in adaptive) / len(adaptive),
        sum(adapt(job, phase, stays=True)[0] for phase in job.phases) / best_s,
        sum(adapt(job, phase, swings=False)[0] for phase in job.phases) / best_s,
        sum(foresee(job, phase, plans) for phase in job.phases) / best_s,
    )


def run(job: Job, view: LinkView, plan: Plan, steer: Steer | None = None) -> tuple[float, int]:
    """Seconds of a run, and how often it changed its plan."""
    line, looked_s, switches = Pipeline(view, Work.of(plan, job.problem)), 0.0, 0
    for step in range(job.steps):
        view.at(line.now_s)
        if steer is not None and line.now_s - looked_s >= job.replan_s:
            looked_s = line.now_s
            chosen = steer(line, plan, job.steps - step)
            if _kind(chosen) != _kind(plan):
                plan, switches = chosen, switches + 1
                line.change(Work.of(plan, job.problem))
        line.step()
    line.drain()
    return line.now_s, switches


def adapt(job: Job, phase_s: float, *, swings: bool = True, stays: bool = False) -> tuple[float, int]:
    """A run that looks at its link, and changes its plan."""
    view, adapter = job.view(phase_s), Adapter(job.problem, Ours())

    def spread() -> Spread:
        return view.estimate.spread if swings else STEADY

    def steer(line: Pipeline, plan: Plan, remaining: int) -> Plan:
        known = link_of(view.at(line.now_s))
        if known is None:
            return plan
        following = Following(plan.cut, plan.cut_name, plan.codec_up, plan.codec_down, plan.stale_it)
        verdict = adapter.look(following, known, line.now_s, remaining, spread())
        return verdict.plan if verdict.switch else plan

    link = link_of(view.survey())
    if link is None:
        raise UsageError("the trace is too slow before a phase for a look at the link; take other --phases")
    return run(job, view, adapter.first(link, spread()), None if stays else steer)


def foresee(job: Job, phase_s: float, plans: Sequence[Plan]) -> float:
    """A run that knows its network of the next seconds."""
    view, link = job.view(phase_s), job.problem.context

    def step_s(plan: Plan, at_s: float) -> float:
        if plan.local:
            return plan.prediction.step_s
        work, steps = Work.of(plan, job.problem), 0.0
        for second in range(AHEAD_S):
            up_s, down_s = (
                8 * nbytes / max(lane.mean_bps(at_s + second, 1.0), _LEAST_BPS)
                for nbytes, lane in ((work.up_bytes, view.lanes["up"]), (work.down_bytes, view.lanes["down"]))
            )
            steps += 1 / step_time((work.edge_s, up_s, work.cloud_s, down_s), link.rtt_ms / 1e3, plan.stale_it)
        return AHEAD_S / steps

    def steer(line: Pipeline, plan: Plan, remaining: int) -> Plan:
        now_s = step_s(plan, line.now_s)
        best = min(plans, key=lambda each: step_s(each, line.now_s))
        best_s = step_s(best, line.now_s)
        moved = Work.of(best, job.problem).state_bytes - line.work.state_bytes
        rate_bps = view.lanes["down" if moved > 0 else "up"].mean_bps(line.now_s, AHEAD_S)
        won_s = (now_s - best_s) * min(remaining, AHEAD_S / best_s)
        return best if won_s > 8 * abs(moved) / max(rate_bps, _LEAST_BPS) + link.rtt_ms / 1e3 + best_s else plan

    return run(job, view, min(plans, key=lambda each: step_s(each, 0.0)), steer)[0]


def _kind(plan: Plan) -> tuple[object, ...]:
    return plan.cut, plan.codec_up, plan.codec_down, plan.stale_it


if __name__ == "__main__":
    run_command(main)
