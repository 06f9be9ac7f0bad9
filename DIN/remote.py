"""One party's run over a server: align samples with the other parties, then train."""

import logging
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common.datasets.clicks import Clicks
from common.errors import DataError
from common.naming import letter
from common.records import new_folder
from common.training.alignment import Announcement, Marks
from common.training.edge import Journey, Journeyed, train_remotely
from common.training.meeting import align
from common.training.prepare import largest_frame
from common.training.remote import Cloud
from common.training.thrift import give_back
from common.wire.admission import ClientSecurity
from DIN.options import ClientOptions
from DIN.recipe import PartyPlan, plan_party
from DIN.samples import aligned, call_roll, load_clicks, positions
from DIN.train import Finished, facts_of, running

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
    cloud = Cloud(options.ip, options.port, options.hyperport, security)
    clicks = clicks or load_clicks(options.dataset, options.dataset_path, options.seed)
    if options.resume is None:
        plan, marks = _align(options, cloud, clicks)
        folder = new_folder(options.run_dir, options.log_name or f"din-{letter(options.number)}-{clicks.name}")
        save_file({"marks": torch.from_numpy(marks)}, folder / _MARKS)
    else:
        folder = options.resume
        plan = _plan(options, clicks, _saved(folder), "")
    with running(plan, options, folder) as trainer:
        plan.prepared.graph.forget_weights()  # what is not in the head is the server's to keep
        give_back()
        under_way = max(plan.job.stale_it, options.queue_limit) + 1
        largest = largest_frame(plan.prepared.graph, plan.job)
        journey = Journey(cloud, largest, options.queue_limit, under_way, options.reconnect_s)

        def keep(run: Journeyed) -> Finished:
            session = run.session
            facts = {} if session is None else {"rtt_s": session.rtt_s, "session": session.name}
            return Finished(trainer.finish(run.digests, facts_of(plan, options) | facts), folder)

        return train_remotely(trainer, journey, keep, resume=options.resume is not None)


def _align(options: ClientOptions, cloud: Cloud, clicks: Clicks) -> tuple[PartyPlan, Marks]:
    salt = options.salt.encode()

    def announce(agreed: bytes) -> Announcement:
        return call_roll(clicks, salt, agreed).announcement

    group, marks = align(cloud, options.run, options.number, options.parties, options.decider, salt, announce)
    return _plan(options, clicks, marks, group), marks


def _plan(options: ClientOptions, clicks: Clicks, marks: Marks, group: str) -> PartyPlan:
    party, salt = options.number, options.salt.encode()
    roll = call_roll(clicks, salt, salt)  # the order is the same whatever the salt of the ids was
    own = positions(party, options.parties)
    return plan_party(options, party, aligned(clicks, roll, marks, own, labelled=options.owner == party), group)


def _saved(folder: Path) -> Marks:
    """The marks of a run that goes on."""
    try:
        marks: Marks = load_file(folder / _MARKS)["marks"].numpy().astype(np.uint8)
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{folder / _MARKS} cannot be read: {error}; start anew") from None
    return marks
