"""Run a planned job: over a server, or in this one process, with the same records."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeGuard

import msgspec
from safetensors.torch import save_file
from torch import nn

from common.errors import ConnectionLost, PartitionError, UsageError
from common.planning.log import PlanLog
from common.records import new_folder
from common.training.alone import MakeStation, Refuge
from common.training.carrier import Carrier
from common.training.checkpoint import CheckpointStore, kept_checkpoints
from common.training.control import Control, ControlPort
from common.training.directions import make_cloud_half, make_edge_half
from common.training.edge import Journey, Journeyed, train_here, train_remotely
from common.training.half import Half
from common.training.in_process import InProcess
from common.training.journal import Journal
from common.training.metered import energy_in_words, metered
from common.training.monitor import LinkMonitor
from common.training.moving import Change, find_cut
from common.training.part_state import State, values_of
from common.training.pilot import Pilot
from common.training.prepare import largest_of_any_cut, require_frozen
from common.training.recorder import Recorder
from common.training.remote import Cloud
from common.training.run_state import Plan as TrainingPlan
from common.training.schedule import Schedule
from common.training.station import Station
from common.training.thrift import give_back
from common.training.timed import busy_timer, slowed
from common.training.trainer import Trainer
from common.training.weights import WeightsLog, slice_parameters
from common.wire.admission import ClientSecurity
from common.wire.structs import Job
from discriminative.options import EdgeOptions, PlannedOptions, RunOptions
from discriminative.planning import choose, wants_plan
from discriminative.recipe import Plan

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Finished:
    """A run that has ended well."""

    summary: dict[str, Any]
    folder: FilePath


def train_with_server(plan: Plan, options: EdgeOptions, security: ClientSecurity | None = None) -> Finished:
    """Train over TCP, with the protection that ``options`` ask for; None for none."""
    cloud = Cloud(options.ip, options.port, options.hyperport, security)
    monitor = LinkMonitor()
    plan, planned = choose(plan, options, cloud, monitor) if _plans(options) else (plan, None)
    slices = _tracked(plan, options)
    with _run(plan, options) as (trainer, folder), ExitStack() as stack:
        _track(options, trainer, slices, folder, lambda: [trainer.head.part])
        make_here = _station_maker(plan, options)
        plan.prepared.graph.forget_weights()  # the tail's are the server's to keep
        give_back()
        trainer.here = partial(_here, make_here)
        if planned is not None:
            plans = stack.enter_context(PlanLog(folder))
            pilot = trainer.steering.pilot = Pilot(planned.adapter, monitor, plans, every_s=planned.every_s)
            pilot.begin(planned.first, 0, planned.context, "before the run")
        journey = Journey(
            cloud,
            largest_of_any_cut(plan.prepared.graph, plan.job),
            options.queue_limit,
            max(_largest_staleness(plan.job, options), options.queue_limit) + 1,
            math.inf if options.on_disconnect == "wait" else options.reconnect_s,
            monitor,
            trainer.head.replies,
        )
        refuge = None
        if options.on_disconnect == "edge":
            store = _store(plan.job, options, folder / CHECKPOINTS / "cloud")
            refuge = Refuge(_station_maker(plan, options, store), store)
            trainer.copies = store

        def keep(run: Journeyed) -> Finished:
            facts: dict[str, Any] = {"rtt_s": 0.0, "session": None}
            if run.session is not None:
                facts = {"rtt_s": run.session.rtt_s, "session": run.session.name}
            elif run.tail is not None:
                theirs = "tail" if plan.job.direction == "up" else "head"
                save_file(values_of(run.tail), folder / f"{theirs}.safetensors")
            return Finished(trainer.finish(run.digests, _facts(plan, options, trainer) | facts), folder)

        finished = train_remotely(trainer, journey, keep, resume=options.resume is not None, refuge=refuge)
        if refuge is not None:
            refuge.store.clear()
        return finished


def train_in_process(plan: Plan, options: RunOptions) -> Finished:
    """Train with head and tail in this process."""
    slices = _tracked(plan, options)
    with _run(plan, options) as (trainer, folder):
        store = _store(plan.job, options, folder / CHECKPOINTS / "cloud")
        make = _station_maker(plan, options, store)
        trainer.here = partial(_here, _station_maker(plan, options))
        stations: list[Station] = []

        def station(job: Job, *, received: int = 0, state: State | None = None) -> Station:
            stations.append(make(job, received=received, state=state))
            return stations[-1]

        _track(options, trainer, slices, folder, lambda: [trainer.head.part, *(s.tail.part for s in stations[-1:])])
        digests = train_here(trainer, station, store, resume=options.resume is not None)
        facts = {"rtt_s": 0.0, "session": None}
        finished = Finished(trainer.finish(digests, _facts(plan, options, trainer) | facts), folder)
        store.clear()
        return finished


def _plans(options: RunOptions) -> TypeGuard[PlannedOptions]:
    """Whether something is to be chosen."""
    return isinstance(options, PlannedOptions) and wants_plan(options)


def _tracked(plan: Plan, options: RunOptions) -> dict[int, tuple[str, ...]]:
    """Parameters of the slices whose weights are to be watched."""
    if not options.track_weights:
        return {}
    return slice_parameters(plan.prepared.graph, options.splits, options.tracked)


def _track(
    options: RunOptions,
    trainer: Trainer,
    slices: dict[int, tuple[str, ...]],
    folder: FilePath,
    parts: Callable[[], list[nn.Module]],
) -> None:
    if options.track_weights:
        trainer.recorder.watch(WeightsLog(folder, slices, parts))


def _here(make: MakeStation, head: Half, job: Job, journal: Journal, due: tuple[int, int]) -> Carrier:
    """The other half of a session in this process, while all of the model is in the head."""
    station = make(job)
    station.tail.order.load_state(due)
    return InProcess(head, station, journal, counted=False)


def _store(job: Job, options: RunOptions, folder: FilePath) -> CheckpointStore:
    return CheckpointStore(folder, kept_checkpoints(_largest_staleness(job, options)), log.warning)


def _largest_staleness(job: Job, options: RunOptions) -> int:
    """The largest K that the run may come to."""
    if _plans(options):
        return max(job.stale_it, options.max_stale_it)
    return job.stale_it + len(options.K_schedule)


def _station_maker(plan: Plan, options: RunOptions, store: CheckpointStore | None = None) -> MakeStation:
    """Makes the tail's half in this process."""
    make = partial(
        make_cloud_half,
        plan.prepared,
        device=options.device,
        objective=plan.objective,
        memory_mb=options.codec_memory_mb,
    )

    def station(job: Job, *, received: int = 0, state: State | None = None) -> Station:
        timer = busy_timer(options.device)
        made = Station(plan.prepared.graph, job, make, timer, store=store, received=received, state=state)
        plan.prepared.graph.forget_weights()
        give_back()
        return made

    return station


@contextmanager
def _run(plan: Plan, options: RunOptions) -> Iterator[tuple[Trainer, FilePath]]:
    """A trainer at the beginning of the run, with its records; and their folder."""
    job, changes = plan.job, _changes(plan, options)
    make = partial(
        make_edge_half,
        plan.prepared,
        device=options.device,
        taylor=options.corrections.taylor,
        stash=options.corrections.stash,
        memory_mb=options.codec_memory_mb,
        objective=plan.objective,
        delay=options.corrections.delay,
        late=options.corrections.late,
    )
    head = make(job)
    name = options.log_name or f"{job.model}-{plan.data.name.split(':')[0]}"
    folder = options.resume or new_folder(options.run_dir, name)
    log.info(
        "%s on %s (%d samples, %d held out), cut behind %s, %s up, %s down, K = %d; records in %s",
        job.model,
        plan.data.name,
        len(plan.data.train.labels),
        len(plan.data.test.labels),
        plan.cut.name,
        job.compress_up,
        job.compress_down,
        job.stale_it,
        folder,
    )
    training = TrainingPlan(
        job.epochs,
        Schedule(options.schedule),
        options.queue_limit,
        options.checkpoint_every,
        changes,
        plan.plateau,
        plan.look,
    )
    control = Control()
    metering = metered(options.meter, options.watts, options.meter_interval_ms)
    journal = Journal(slowed(busy_timer(options.device), options.slowdown))
    journal.window = metering.window
    try:
        with (
            Recorder(folder, options, options.report_freq) as recorder,
            ControlPort(control, folder),
            metering as recorder.metered,
        ):
            trainer = Trainer(
                head,
                job,
                plan.prepared.graph,
                make,
                (plan.train, plan.test),
                training,
                recorder,
                journal,
                store=_store(job, options, folder / CHECKPOINTS / "edge"),
                control=control,
            )
            try:
                yield trainer, folder
            finally:
                trainer.store.join()
    except ConnectionLost as error:
        way_on = f"go on with --resume {folder}" if trainer.store.numbers() else "start anew"
        raise ConnectionLost(
            f"{error}; the run stops here, and its records so far are in {folder}: "
            f"see to the server and the network, then {way_on}"
        ) from None


def _changes(plan: Plan, options: RunOptions) -> dict[int, Change]:
    """Changes of the plan that are known beforehand, by step.

    Raises:
        UsageError: the cut could not be moved as asked.
    """
    graph = plan.prepared.graph
    changes: dict[int, Change] = {}
    for step, cut in options.moves.items():
        try:
            point = find_cut(graph, cut)
            graph.require_trainable(point.index)
            require_frozen(msgspec.structs.replace(plan.job, cut=point.index, cut_name=point.name))
        except (PartitionError, UsageError) as error:
            raise UsageError(f"--move {step}:{cut}: {error}") from None
        changes[step] = Change(cut)
    for more, epoch in enumerate(sorted(options.K_schedule), start=1):
        step = epoch * len(plan.train)
        changes[step] = replace(changes.get(step, Change()), stale_it=plan.job.stale_it + more)
    return changes


def _facts(plan: Plan, options: RunOptions, trainer: Trainer) -> dict[str, Any]:
    job = trainer.job
    return {
        "model": job.model,
        "dataset": plan.data.name,
        "cut": job.cut,
        "cut_name": job.cut_name,
        "stale_it": job.stale_it,
        "schedule": options.schedule,
        "replay": "stash" if options.corrections.stash else "recompute",
        "compress_up": job.compress_up,
        "compress_down": job.compress_down,
        "seed": job.seed,
    }


def report(run: Finished) -> str:
    """The summary in some lines for the user."""
    summary = run.summary
    stages = ", ".join(f"{stage} {1e3 * value:.1f}" for stage, value in summary["stages_s"].items())
    held_out = "held-out accuracy not measured"
    if summary["accuracy"] is not None:
        held_out = f"held-out accuracy {100 * summary['accuracy']:.2f} %"
    elif summary["loss"] is not None:
        held_out = f"held-out loss {summary['loss']:.4f}"
    ratio = "" if summary["limit_ratio"] is None else f", {summary['limit_ratio']:.2f} x the slowest stage"
    return (
        f"{held_out} after {summary['epochs']} epochs, {summary['steps']} steps\n"
        f"step time {1e3 * summary['step_time_s']:.1f} ms{ratio} (stages, ms: {stages})\n"
        f"per step {summary['bytes_up_per_step'] / 1e6:.3f} MB up, "
        f"{summary['bytes_down_per_step'] / 1e6:.3f} MB down\n"
        + energy_in_words(summary)
        + (f"the server keeps its part under the session's name, {summary['session']}\n" if summary["session"] else "")
        + f"records: {run.folder}"
    )
