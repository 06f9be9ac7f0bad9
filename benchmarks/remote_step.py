"""Steps at K = 0 with a real server in another process, against the same compute in this one; and waiting."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.round_trip import HOST, cpu_s, pin
from common.datasets.batches import Batch
from common.training.in_process import InProcess
from common.training.journal import Journal
from common.training.line import Line
from common.training.loop import Path as TrainingPath
from common.training.loop import StepDone, train_steps
from common.training.opening import Recipe
from common.training.prepare import largest_body, make_head, make_tail, prepare
from common.training.remote import open_session
from common.training.remote_tail import Remote
from common.training.schedule import Schedule
from common.training.serve import Server
from common.training.station import Station
from common.training.timed import busy_timer
from common.wire.structs import Job

_BATCH, _FEATURES, _CLASSES = 32, 64, 10
_QUEUE_LIMIT = 5


def build() -> nn.Module:
    """A model whose compute is small beside what surrounds it."""
    return nn.Sequential(
        nn.Linear(_FEATURES, _FEATURES), nn.ReLU(), nn.Linear(_FEATURES, _FEATURES), nn.ReLU(), nn.Linear(_FEATURES, 10)
    )


def objective(outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy and the number of right answers."""
    return cross_entropy(outputs, labels), int((outputs.argmax(1) == labels).sum())


def serve(pipe: Pipe, slow_s: float, core: int | None) -> None:
    """The cloud's process: a real server; it answers the pipe with its CPU time until it is told to end.

    Args:
        pipe: to the process that asks.
        slow_s: how long a step of the job ``slow`` takes.
        core: core to run on.
    """
    pin(core)
    torch.set_num_threads(1)

    def slow_objective(outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
        time.sleep(slow_s)
        return objective(outputs, labels)

    recipes = {"quick": Recipe(lambda _: build(), objective), "slow": Recipe(lambda _: build(), slow_objective)}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(
            recipes,
            pinned={},
            ip=HOST,
            port=0,
            hyperport=0,
            device="cpu",
            queue_limit=_QUEUE_LIMIT,
            run_dir=Path(folder),
        )
        accepting = threading.Thread(target=server.serve)
        accepting.start()
        pipe.send((server.port, server.hyperport))
        while pipe.recv():
            pipe.send(cpu_s())
        server.close()
        accepting.join()


class Edge:
    """The edge's process."""

    def __init__(self, ports: tuple[int, int], core: int | None) -> None:
        pin(core)
        torch.set_num_threads(1)
        self._ports = ports
        self._prepared = prepare(build, (_FEATURES,), 0)

    def in_process_s(self, steps: int) -> list[float]:
        """Seconds of each step with head and tail in this process."""
        job = self._job("quick")
        head = make_head(self._prepared, job, device="cpu", taylor=False)
        make = partial(make_tail, self._prepared, device="cpu", objective=objective)
        clock = busy_timer("cpu")
        journal = Journal(clock)
        station = Station(self._prepared.graph, job, make, clock)
        return _steps_s(TrainingPath(head, InProcess(head, station, journal), journal), steps)

    def remote_s(self, steps: int) -> list[float]:
        """Seconds of each step with the tail at the server."""
        with self._attached("quick") as path:
            return _steps_s(path, steps)

    def waiting_cpu(self) -> float:
        """CPU seconds per second in the midst of a run, while the server takes its time over a step."""
        with self._attached("slow") as path:
            return _waiting_cpu(path)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """A session that sends nothing, for the server to wait on."""
        with self._attached("quick"):
            yield

    @contextmanager
    def _attached(self, workload: str) -> Iterator[TrainingPath]:
        job = self._job(workload)
        head = make_head(self._prepared, job, device="cpu", taylor=False)
        session = open_session(HOST, *self._ports, job, largest_body(self._prepared.graph, job))
        with session.control:
            journal = Journal(busy_timer("cpu"))
            line = Line(session.training, limit=_QUEUE_LIMIT)
            with Remote(head, line, journal, queue_limit=_QUEUE_LIMIT, most_under_way=1) as carrier:
                yield TrainingPath(head, carrier, journal)
                carrier.finish()

    def _job(self, workload: str) -> Job:
        graph = self._prepared.graph
        cut = graph.find(2)
        return Job(
            workload=workload,
            model="small",
            num_classes=_CLASSES,
            input_shape=(_FEATURES,),
            cut=cut.index,
            cut_name=cut.name,
            splits=-1,
            split_index=-1,
            graph_digest=graph.digest,
            weights_digest=self._prepared.weights_digest,
            batch_size=_BATCH,
            epochs=1,
            optim="resnet",
            learning_rate=0.0,
            seed=0,
            stale_it=0,
            dropout=0.0,
            compress_up="int8",
            compress_down="fp16",
        )


def _steps_s(path: TrainingPath, steps: int) -> list[float]:
    ended: list[float] = []

    def on_step(done: StepDone) -> None:
        ended.append(done.ended_s)

    train_steps(path, _batches(), steps, epoch=0, first_step=0, schedule=Schedule.FIXED, stale_it=0, on_step=on_step)
    return [after - before for before, after in pairwise(ended)]


def _waiting_cpu(path: TrainingPath) -> float:
    batch = next(_batches())
    path.carrier.submit(path.head.forward(0, 0, (batch.inputs,), batch.labels, batch.ids))
    started_s, before = time.perf_counter(), cpu_s()
    answer = path.carrier.collect()
    used = (cpu_s() - before) / (time.perf_counter() - started_s)
    path.head.complete(answer)
    return used


def _batches() -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(_BATCH)
    batch = Batch(ids, torch.randn(_BATCH, _FEATURES, generator=generator), ids % _CLASSES)
    while True:
        yield batch
