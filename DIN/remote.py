"""One party's run over a server: align samples with the other parties, then train."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common.datasets.clicks import Clicks
from common.errors import DataError
from common.naming import letter
from common.records import new_folder
from common.training.alignment import HELD_OUT, TRAINING, Announcement, Marks
from common.training.checkpoint import CheckpointStore, read_facts
from common.training.edge import Journey, Journeyed, train_remotely
from common.training.meeting import Agreed, align
from common.training.monitor import LinkMonitor
from common.training.pace import NOT_PLANNED, Pace
from common.training.prepare import largest_frame
from common.training.remote import Cloud
from common.training.run_state import EdgeFacts
from common.training.thrift import give_back
from common.wire.admission import ClientSecurity
from DIN.options import ClientOptions
from DIN.planning import following, propose
from DIN.recipe import PartyPlan, plan_party
from DIN.samples import aligned, call_roll, load_clicks, positions
from DIN.train import CHECKPOINTS, Finished, facts_of, largest_staleness, running

log = logging.getLogger(__name__)

_MARKS = "aligned.safetensors"


def train_party(
    options: ClientOptions, security: ClientSecurity | None = None, clicks: Clicks | None = None
) -> Finished:
    """Train a party's part of the model over TCP.

    Args:
        options: of the command line.
        security: what to ask of the server and to show to it; None for no protection.
        clicks: what the party has; without it the data set of the options.
    """
    options.check()
    options.check_plan()
    cloud = Cloud(options.ip, options.port, options.hyperport, security)
    monitor = LinkMonitor()
    clicks = clicks or load_clicks(options.dataset, options.dataset_path, options.seed)
    proposal = first = common = None
    if options.resume is None:
        if options.plans:
            proposal = propose(_plan(options, clicks, _own(options, clicks), ""), options, cloud, monitor)
        plan, agreed = _align(options, cloud, clicks, NOT_PLANNED if proposal is None else proposal.pace)
        folder = new_folder(options.run_dir, options.log_name or f"din-{letter(options.number)}-{clicks.name}")
        save_file({"marks": torch.from_numpy(agreed.marks)}, folder / _MARKS)
        if proposal is not None:
            first, common = proposal.settle(agreed.pace), agreed.pace
            plan = following(plan, first.plan)
    else:
        folder = options.resume
        plan = _as_it_was(_plan(options, clicks, _saved(folder), ""), folder)
        if options.plans:
            proposal = propose(plan, options, cloud, monitor)
    with running(plan, options, folder) as trainer, ExitStack() as stack:
        plan.prepared.graph.forget_weights()  # what is not in the head is the server's to keep
        give_back()
        paces = None
        if proposal is not None:
            paces = proposal.paces(common)
            pilot = proposal.pilot(paces, monitor, folder, options.looks_s, first)
            trainer.steering.pilot = stack.enter_context(pilot)
        under_way = max(largest_staleness(plan.job, options), options.queue_limit) + 1
        largest = largest_frame(plan.prepared.graph, plan.job)
        journey = Journey(cloud, largest, options.queue_limit, under_way, options.reconnect_s, monitor, paces=paces)

        def keep(run: Journeyed) -> Finished:
            session = run.session
            facts = {} if session is None else {"rtt_s": session.rtt_s, "session": session.name}
            return Finished(trainer.finish(run.digests, facts_of(plan, options, trainer.job) | facts), folder)

        return train_remotely(trainer, journey, keep, resume=options.resume is not None)


def _align(options: ClientOptions, cloud: Cloud, clicks: Clicks, pace: Pace) -> tuple[PartyPlan, Agreed]:
    salt = options.salt.encode()

    def announce(agreed: bytes) -> Announcement:
        return call_roll(clicks, salt, agreed).announcement

    agreed = align(cloud, options.run, options.number, options.parties, options.decider, salt, announce, pace)
    return _plan(options, clicks, agreed.marks, agreed.group), agreed


def _own(options: ClientOptions, clicks: Clicks) -> Marks:
    """Marks of a party that has not heard from others: all that it has."""
    salt = options.salt.encode()
    held_out = call_roll(clicks, salt, salt).announcement.held_out
    return np.where(held_out, HELD_OUT, TRAINING).astype(np.uint8)


def _plan(options: ClientOptions, clicks: Clicks, marks: Marks, group: str) -> PartyPlan:
    party, salt = options.number, options.salt.encode()
    roll = call_roll(clicks, salt, salt)  # the order is the same whatever the salt of the ids was
    own = positions(party, options.parties)
    return plan_party(options, party, aligned(clicks, roll, marks, own, labelled=options.owner == party), group)


def _as_it_was(plan: PartyPlan, folder: Path) -> PartyPlan:
    """With codecs and K of the newest checkpoint: what was chosen is not chosen again."""
    store = CheckpointStore(folder / CHECKPOINTS / "edge", 0, log.warning)
    for number in reversed(store.numbers()):
        try:
            job = read_facts(store.folder, number, EdgeFacts).job
        except DataError:
            continue  # the run will say so
        kept = {name: getattr(job, name) for name in ("compress_up", "compress_down", "stale_it")}
        return replace(plan, job=msgspec.structs.replace(plan.job, **kept))
    return plan


def _saved(folder: Path) -> Marks:
    """The marks of a run that goes on."""
    try:
        marks: Marks = load_file(folder / _MARKS)["marks"].numpy().astype(np.uint8)
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{folder / _MARKS} cannot be read: {error}; start anew") from None
    return marks
