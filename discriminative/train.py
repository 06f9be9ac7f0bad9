"""Run a planned job: over a server, or in this one process, with the same records."""

import logging
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from common.errors import ConnectionLost
from common.naming import printable
from common.records import new_folder
from common.training.carrier import Carrier, InProcess, Remote
from common.training.journal import Journal
from common.training.loop import Path
from common.training.prepare import largest_body, make_head, make_tail
from common.training.recorder import Recorder
from common.training.remote import open_session
from common.training.schedule import Schedule
from common.training.timed import TimedTail, busy_timer
from common.training.trainer import Plan as TrainingPlan
from common.training.trainer import run_training
from common.wire.admission import ClientSecurity
from discriminative.options import ClientOptions, JobOptions
from discriminative.recipe import Plan, objective

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A run that has ended well."""

    summary: dict[str, Any]
    folder: FilePath


def train_with_server(plan: Plan, options: ClientOptions, security: ClientSecurity | None = None) -> Finished:
    """Train over TCP, with the protection that ``options`` ask for; None for none."""
    head = make_head(
        plan.prepared, plan.job, device=options.device, taylor=bool(options.use_EF), memory_mb=options.codec_memory_mb
    )
    body = largest_body(plan.prepared.graph, plan.job)
    plan.prepared.graph.forget_weights()  # the tail's are the server's to keep
    session = open_session(options.ip, options.port, options.hyperport, plan.job, body, security)
    with session.control:
        for note in session.notes:
            log.warning("note: %s", printable(note))
        log.info(
            "session %s at %s, round trip %.1f ms",
            printable(session.name, 64),
            session.training.peer,
            1e3 * session.rtt_s,
        )
        journal = Journal(busy_timer(options.device))
        journal.clock_offset_s = session.clock_offset_s
        most = max(plan.job.stale_it, options.queue_limit) + 1
        with Remote(head, session.training, journal, queue_limit=options.queue_limit, most_under_way=most) as carrier:
            return _train(
                plan, options, Path(head, carrier, journal), {"rtt_s": session.rtt_s, "session": session.name}
            )


def train_in_process(plan: Plan, options: JobOptions) -> Finished:
    """Train with head and tail in this process."""
    head = make_head(
        plan.prepared, plan.job, device=options.device, taylor=bool(options.use_EF), memory_mb=options.codec_memory_mb
    )
    tail = make_tail(
        plan.prepared, plan.job, device=options.device, objective=objective, memory_mb=options.codec_memory_mb
    )
    timer = busy_timer(options.device)
    journal = Journal(timer)
    carrier: Carrier = InProcess(head, TimedTail(tail, timer), journal)
    return _train(plan, options, Path(head, carrier, journal), {"rtt_s": 0.0, "session": None})


def _train(plan: Plan, options: JobOptions, path: Path, facts: dict[str, Any]) -> Finished:
    job = plan.job
    folder = new_folder(options.run_dir, options.log_name or f"{job.model}-{plan.data.name.split(':')[0]}")
    log.info(
        "%s on %s (%d images, %d held out), cut behind %s, %s up, %s down, K = %d; records in %s",
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
    facts |= {
        "model": job.model,
        "dataset": plan.data.name,
        "cut": job.cut,
        "cut_name": job.cut_name,
        "stale_it": job.stale_it,
        "schedule": options.schedule,
        "compress_up": job.compress_up,
        "compress_down": job.compress_down,
        "seed": job.seed,
    }
    training = TrainingPlan(job.epochs, Schedule(options.schedule), job.stale_it, options.queue_limit)
    try:
        with Recorder(folder, options, options.report_freq) as recorder:
            return Finished(run_training(path, plan.train, plan.test, training, recorder, facts), folder)
    except ConnectionLost as error:
        raise ConnectionLost(
            f"{error}; the run stops here, and its records so far are in {folder}: "
            "see to the server and the network, then start anew"
        ) from None


def report(run: Finished) -> str:
    """The summary in some lines for the user."""
    summary = run.summary
    stages = ", ".join(f"{stage} {1e3 * value:.1f}" for stage, value in summary["stages_s"].items())
    accuracy = "not measured" if summary["accuracy"] is None else f"{100 * summary['accuracy']:.2f} %"
    ratio = "" if summary["limit_ratio"] is None else f", {summary['limit_ratio']:.2f} x the slowest stage"
    return (
        f"held-out accuracy {accuracy} after {summary['epochs']} epochs, {summary['steps']} steps\n"
        f"step time {1e3 * summary['step_time_s']:.1f} ms{ratio} (stages, ms: {stages})\n"
        f"per step {summary['bytes_up_per_step'] / 1e6:.3f} MB up, "
        f"{summary['bytes_down_per_step'] / 1e6:.3f} MB down\n"
        + (f"the server keeps the tail under the session's name, {summary['session']}\n" if summary["session"] else "")
        + f"records: {run.folder}"
    )
