"""Run planned parties: all of them in this process, or one over a server, with the same records."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from common.datasets.clicks import Clicks
from common.errors import ConnectionLost, DataError, TandemError
from common.naming import letter
from common.records import new_folder
from common.training.alignment import agree
from common.training.checkpoint import CheckpointStore, kept_checkpoints, read_facts
from common.training.control import Control, ControlPort
from common.training.edge import train_here
from common.training.joint import Joint, Seat
from common.training.joint_part import drawn, make_joint
from common.training.journal import Journal
from common.training.moving import Change
from common.training.part_state import State, unflat
from common.training.prepare import make_head, make_tail
from common.training.recorder import Recorder
from common.training.run_state import Plan as TrainingPlan
from common.training.schedule import Schedule
from common.training.station import Station, TailFacts
from common.training.timed import busy_timer, slowed
from common.training.trainer import Trainer
from common.wire.structs import Job
from DIN.options import BaseOptions, ClientOptions, JobOptions
from DIN.recipe import PartyPlan, build_top, plan_party
from DIN.samples import PartyData, aligned, call_roll, load_clicks, positions
from DIN.scores import Scores, objective
from DIN.server_labels import GroupLabels

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Finished:
    """A party's run that has ended well."""

    summary: dict[str, Any]
    folder: Path


def plan_all(options: JobOptions, clicks: Sequence[Clicks] | None = None) -> list[PartyPlan]:
    """Align all parties' samples, as they do over a server, and plan each.

    Args:
        options: of the command line.
        clicks: what each party has, and last the server, where it has labels; without it all have the options' data.
    """
    options.check()
    if not clicks:
        holders = options.parties + (options.owner is None)
        clicks = [load_clicks(options.dataset, options.dataset_path, options.seed)] * holders
    salt = options.salt.encode()
    rolls = [call_roll(each, salt, salt) for each in clicks[: options.parties]]
    announced = [roll.announcement for roll in rolls]
    if options.owner is None:
        announced.append(call_roll(clicks[-1], salt, salt).announcement)
    marks = agree(announced, options.decider, options.parties)
    return [
        plan_party(
            options,
            party,
            aligned(
                clicks[party],
                rolls[party],
                marks[party],
                positions(party, options.parties),
                labelled=options.owner == party,
            ),
        )
        for party in range(options.parties)
    ]


def train_in_process(plans: Sequence[PartyPlan], options: BaseOptions) -> list[Finished]:
    """Train with all parties and the top in this process; what each party has of it.

    Each party has a thread, which waits for the others' as over a network; results depend on no order among them.
    """
    name = options.log_name or f"din-{plans[0].data.name}"
    folder = options.resume or new_folder(options.run_dir, name)
    stores = [_stores(plan, options, folder / letter(party)) for party, plan in enumerate(plans)]
    state = _go_back(stores) if options.resume is not None else None
    top = drawn(lambda: build_top(plans[0].job), plans[0].job.seed)
    owner = next((party for party, plan in enumerate(plans) if plan.labelled), None)
    judge = None if owner is not None else GroupLabels(_labelled(plans[0].data), folder / "epochs.csv")
    goal = objective if judge is None else judge.objective
    tail = make_joint([(plan.prepared, plan.job) for plan in plans], top, goal, device=options.device, state=state)
    joint = Joint(tail, len(plans), owner, busy_timer(options.device), judge=judge)

    def run(party: int) -> Finished:
        torch.set_num_threads(max(options.threads, 1)) if options.threads else torch.get_num_threads()
        seat = Seat(joint, party)
        try:
            return _train_here(plans[party], options, folder / letter(party), stores[party][1], seat)
        except TandemError as error:
            seat.fail(str(error))
            raise
        finally:
            seat.leave()

    with ThreadPoolExecutor(len(plans)) as pool:
        runs = [pool.submit(run, party) for party in range(len(plans))]
    errors = [error for each in runs if (error := each.exception()) is not None]
    if errors:
        raise next((error for error in errors if not _of_others(error)), errors[0])
    for _, cloud in stores:
        cloud.clear()
    save_file({name: value.contiguous() for name, value in tail.part.state_dict().items()}, folder / "tail.safetensors")
    return [each.result() for each in runs]


def _train_here(plan: PartyPlan, options: BaseOptions, folder: Path, store: CheckpointStore, seat: Seat) -> Finished:
    folder.mkdir(parents=True, exist_ok=True)
    with running(plan, options, folder) as trainer:

        def station(job: Job, *, received: int = 0, state: State | None = None) -> Station:
            make = partial(
                make_tail,
                plan.prepared,
                device=options.device,
                objective=objective,
                memory_mb=options.codec_memory_mb,
                common=seat.joint.tail,
            )
            made = Station(
                plan.prepared.graph, job, make, busy_timer(options.device), store=store, received=received, state=state
            )
            made.seat = seat
            return made

        digests = train_here(trainer, station, store, resume=options.resume is not None)
        facts = facts_of(plan, options, trainer.job) | {"rtt_s": 0.0, "session": None}
        return Finished(trainer.finish(digests, facts), folder)


@contextmanager
def running(plan: PartyPlan, options: JobOptions, folder: Path) -> Iterator[Trainer]:
    """A party's trainer at the beginning of the run, with its records."""
    job, data = plan.job, plan.data
    scores = Scores(data.test.labels, data.users)
    make = partial(
        make_head,
        plan.prepared,
        device=options.device,
        taylor=bool(options.use_EF),
        memory_mb=options.codec_memory_mb,
        objective=scores.objective,
    )
    head = make(job)
    log.info(
        "party %s of %d on %s (%d samples, %d held out), cut behind %s, %s up, %s down, K = %d; records in %s",
        letter(job.party),
        job.parties,
        data.name,
        len(data.train.labels),
        len(data.test.labels),
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
        _changes(plan, options),
        most_stale=largest_staleness(job, options) if isinstance(options, ClientOptions) else None,
    )
    control = Control()
    journal = Journal(slowed(busy_timer(options.device), options.slowdown))
    with Recorder(folder, options, options.report_freq) as recorder, ControlPort(control, folder):
        recorder.judges = plan.labelled or options.owner is None
        if plan.labelled:
            recorder.measures = scores.measures
        store = _stores(plan, options, folder)[0]
        trainer = Trainer(
            head,
            job,
            plan.prepared.graph,
            make,
            (plan.train, plan.test),
            training,
            recorder,
            journal,
            store=store,
            control=control,
        )
        try:
            yield trainer
        except ConnectionLost as error:
            way_on = f"go on with --resume {folder}" if store.numbers() else "start anew"
            raise ConnectionLost(
                f"{error}; the run stops here: see to the server and the network, then {way_on}"
            ) from None
        finally:
            store.join()


def largest_staleness(job: Job, options: JobOptions) -> int:
    """The largest K that a party may come to: by its schedule, or over a server by whoever asks."""
    most = job.stale_it + len(options.K_schedule)
    return max(most, options.max_stale_it) if isinstance(options, ClientOptions) else most


def _changes(plan: PartyPlan, options: JobOptions) -> dict[int, Change]:
    """Changes of K that are known beforehand, by step."""
    growing = enumerate(sorted(options.K_schedule), start=1)
    return {epoch * len(plan.train): Change(stale_it=options.staleness + more) for more, epoch in growing}


def _stores(plan: PartyPlan, options: JobOptions, folder: Path) -> tuple[CheckpointStore, CheckpointStore]:
    """Checkpoints of a party's head, and of the tail's half in the same process."""
    keep = kept_checkpoints(largest_staleness(plan.job, options)) + plan.job.parties
    edge, cloud = (CheckpointStore(folder / CHECKPOINTS / side, keep, log.warning) for side in ("edge", "cloud"))
    return edge, cloud


def _go_back(stores: Sequence[tuple[CheckpointStore, CheckpointStore]]) -> State:
    """Leave the newest checkpoint that all have as the newest of each; the tail's state in it."""
    numbers = [
        {read_facts(cloud.folder, n, TailFacts).next_step: n for n in set(edge.numbers()) & set(cloud.numbers())}
        for edge, cloud in stores
    ]
    common = set.intersection(*(set(each) for each in numbers))
    if not common:
        raise DataError(f"{stores[0][0].folder.parents[2]} has no checkpoint that all parties could go on from")
    step = max(common)
    for (edge, cloud), own in zip(stores, numbers, strict=True):
        for store in (edge, cloud):
            store.forget_behind(own[step])
    tensors, _ = stores[0][1].read(numbers[0][step], TailFacts)
    return unflat(tensors, "tail/")


def _of_others(error: BaseException) -> bool:
    """Whether an error says only that another party had one."""
    return "lost party" in str(error) or "is waited for" in str(error)


def _labelled(data: PartyData) -> PartyData:
    """The same samples with their labels, as a server has them."""
    train, test = (replace(each, labels=data.clicks.labels[each.places]) for each in (data.train, data.test))
    return replace(data, train=train, test=test)


def facts_of(plan: PartyPlan, options: JobOptions, job: Job) -> dict[str, Any]:
    """What only the planner of a run knows of it, for its summary; its job is that of the end."""
    return {
        "model": job.model,
        "dataset": plan.data.name,
        "party": letter(job.party),
        "parties": job.parties,
        "label_owner": options.label_owner,
        "cut": job.cut,
        "cut_name": job.cut_name,
        "stale_it": job.stale_it,
        "schedule": options.schedule,
        "compress_up": job.compress_up,
        "compress_down": job.compress_down,
        "seed": job.seed,
    }
