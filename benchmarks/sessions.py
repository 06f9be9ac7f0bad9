"""Many edges on one server: ``python -m benchmarks.sessions``.

Opens sessions that send nothing and sees what each costs the server; then trains many at the same time, small models
each on data of its own, and compares every one with the same run in a process of its own.
"""

import json
import logging
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.datasets.batches import Batch
from common.errors import TandemError
from common.training.acceptor import Admission
from common.training.carrier import Carrier
from common.training.digest import combined_digest, parameter_digests
from common.training.heartbeat import Heartbeat
from common.training.in_process import InProcess
from common.training.journal import Journal
from common.training.line import Line
from common.training.loop import Path as TrainingPath
from common.training.loop import StepDone, train_steps
from common.training.opening import Recipe
from common.training.prepare import Prepared, largest_body, make_head, make_tail, prepare
from common.training.remote import Cloud, open_session
from common.training.remote_tail import Remote
from common.training.schedule import Schedule
from common.training.serve import Server
from common.training.station import Station
from common.training.timed import busy_timer
from common.wire.structs import Job

HOST = "127.0.0.1"
WORKLOAD = "small"
_BATCH, _FEATURES, _CLASSES, _QUEUE_LIMIT = 16, 64, 10, 3


@dataclass(frozen=True)
class Options:
    """Sessions at the same time: what they cost while they wait, and whether they disturb each other."""

    sessions: int = 64
    """Sessions that train at the same time."""
    steps: int = 50
    """Steps of each."""
    idle: int = 500
    """Sessions that only wait, with two connections each."""
    stale_it: int = 3
    """K."""
    json: Path | None = None
    """Write the numbers here too."""
    debug: bool = False
    """Show tracebacks."""


def build() -> nn.Module:
    """A model whose compute is small beside what surrounds it, with a random layer."""
    hidden = [nn.Linear(_FEATURES, _FEATURES), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*hidden, nn.Linear(_FEATURES, _FEATURES), nn.ReLU(), nn.Linear(_FEATURES, _CLASSES))


def objective(outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy and the number of right answers."""
    return cross_entropy(outputs, labels), int((outputs.argmax(1) == labels).sum())


def main() -> None:
    """Measure, and print what was found."""
    options = parse(Options)
    torch.set_num_threads(1)
    files = 8 * (options.idle + options.sessions) + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, files), hard), hard))
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        cloud = Cloud(HOST, *mine.recv())
        server = psutil.Process(process.pid)
        prepared = prepare(build, (_FEATURES,), 0)
        rows = [_idle(options.idle, cloud, prepared, server), _busy(options, cloud, server)]
    finally:
        mine.send(None)
        process.join(30)
        process.terminate()
    print(machine() + "\n")
    for row in rows:
        print_table([row])
        print()
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "idle": rows[0], "busy": rows[1]}, indent=2))
    if rows[1]["equal to alone"] != options.sessions:
        raise TandemError("sessions disturbed each other: some ended with other weights than alone")


def _serve(pipe: Pipe) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(
            {WORKLOAD: Recipe(lambda _: build(), objective)},
            pinned={},
            ip=HOST,
            port=0,
            hyperport=0,
            device="cpu",
            queue_limit=_QUEUE_LIMIT,
            run_dir=Path(folder),
            admission=Admission(connections=1 << 14, per_address=1 << 14),
            max_sessions=1 << 13,
            away_s=5.0,
        )
        accepting = threading.Thread(target=server.serve)
        accepting.start()
        pipe.send((server.port, server.hyperport))
        pipe.recv()
        server.close()
        accepting.join()


def _idle(count: int, cloud: Cloud, prepared: Prepared, server: psutil.Process) -> dict[str, Any]:
    """Sessions that are attached, and send nothing."""
    job, body = _job(prepared, 0, 0), largest_body(prepared.graph, _job(prepared, 0, 0))
    with ExitStack() as stack:
        for i in range(count + 1):
            if i == 1:  # the first one pays for what is there once
                before = _seen(server)
            session = open_session(cloud.ip, cloud.port, cloud.hyperport, job, body)
            stack.enter_context(session.control)
            stack.enter_context(session.training)
        after, began_s, cpu = _seen(server), time.perf_counter(), sum(server.cpu_times()[:2])
        held = len(server.net_connections())
        time.sleep(5)
        share = (sum(server.cpu_times()[:2]) - cpu) / (time.perf_counter() - began_s)
    return {
        "idle sessions": count,
        "connections held": held,
        "KiB a session": (after["rss"] - before["rss"]) / count / 1024,
        "threads a session": (after["threads"] - before["threads"]) / count,
        "server's CPU %": 100 * share,
    }


def _busy(options: Options, cloud: Cloud, server: psutil.Process) -> dict[str, Any]:
    """Sessions that train at the same time."""
    alone = [_alone(seed, options) for seed in range(options.sessions)]
    before = _seen(server)
    start = threading.Barrier(options.sessions)
    began_s = time.perf_counter()
    with ThreadPoolExecutor(options.sessions) as pool:
        runs = [pool.submit(_remote, seed, cloud, options, start) for seed in range(options.sessions)]
        ended = [each.result() for each in runs]
    seconds = time.perf_counter() - began_s
    times = sorted(each[1] for each in ended)
    return {
        "sessions": options.sessions,
        "steps each": options.steps,
        "equal to alone": sum(a == b[0] for a, b in zip(alone, ended, strict=True)),
        "steps a second": options.sessions * options.steps / seconds,
        "first ended s": times[0],
        "last ended s": times[-1],
        "MiB more": (_seen(server)["rss"] - before["rss"]) / 2**20,
    }


def _alone(seed: int, options: Options) -> str:
    prepared = prepare(build, (_FEATURES,), seed)
    job = _job(prepared, seed, options.stale_it)
    head = make_head(prepared, job, device="cpu", taylor=False)
    timer = busy_timer("cpu")
    make = partial(make_tail, prepared, device="cpu", objective=objective)
    journal = Journal(timer)
    return _train(head, InProcess(head, Station(prepared.graph, job, make, timer), journal), journal, seed, options)


def _remote(seed: int, cloud: Cloud, options: Options, start: threading.Barrier) -> tuple[str, float]:
    torch.get_num_threads()
    prepared = prepare(build, (_FEATURES,), seed)
    job = _job(prepared, seed, options.stale_it)
    head = make_head(prepared, job, device="cpu", taylor=False)
    session = open_session(cloud.ip, cloud.port, cloud.hyperport, job, largest_body(prepared.graph, job))
    line, journal = Line(session.training, limit=_QUEUE_LIMIT), Journal(busy_timer("cpu"))
    start.wait(300)
    began_s = time.perf_counter()
    with (
        Heartbeat(cloud, session, line),
        Remote(head, line, journal, queue_limit=_QUEUE_LIMIT, most_under_way=options.stale_it + 1) as carrier,
    ):
        return _train(head, carrier, journal, seed, options), time.perf_counter() - began_s


def _train(head: Any, carrier: Carrier, journal: Journal, seed: int, options: Options) -> str:
    train_steps(
        TrainingPath(head, carrier, journal),
        _batches(seed),
        options.steps,
        epoch=0,
        first_step=0,
        schedule=Schedule.FIXED,
        stale_it=options.stale_it,
        on_step=_nothing,
    )
    return combined_digest(parameter_digests(head.part), carrier.finish())


def _nothing(_: StepDone) -> None:
    """What is told of a step is not needed."""


def _batches(seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(_BATCH)
    while True:
        labels = torch.randint(_CLASSES, (_BATCH,), generator=generator)
        yield Batch(ids, torch.randn(_BATCH, _FEATURES, generator=generator), labels)


def _job(prepared: Prepared, seed: int, stale_it: int) -> Job:
    cut = prepared.graph.find(3)
    return Job(
        workload=WORKLOAD,
        model="small",
        num_classes=_CLASSES,
        input_shape=(_FEATURES,),
        cut=cut.index,
        cut_name=cut.name,
        splits=-1,
        split_index=-1,
        graph_digest=prepared.graph.digest,
        weights_digest=prepared.weights_digest,
        batch_size=_BATCH,
        epochs=1,
        optim="resnet",
        learning_rate=0.01,
        seed=seed,
        stale_it=stale_it,
        dropout=0.0,
        compress_up="int8",
        compress_down="ef+int8",
    )


def _seen(process: psutil.Process) -> dict[str, int]:
    return {"rss": process.memory_info().rss, "threads": process.num_threads()}


if __name__ == "__main__":
    run_command(main)
