"""Profiles of both sides for a run that plans: measured once for each model, batch size and device, and kept."""

import json
import math
import statistics
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.errors import ProtocolError
from common.partition.graph import Graph
from common.planning.log import Context
from common.profiling.cache import Key, find, keep
from common.profiling.measure import WARM_UP, measure
from common.profiling.profile import Profile, longer_tail
from common.profiling.profile_file import dumps, loads
from common.profiling.rows import Measured as Profiled
from common.profiling.stopwatch import Stopwatch
from common.records import software_version
from common.training.exchange import Objective
from common.training.monitor import LinkMonitor
from common.training.optimizers import Preset, find_preset
from common.training.prepare import Prepared, example_batch
from common.training.probing import measure_link
from common.training.randomness import one_at_a_time
from common.training.remote import Cloud
from common.wire.messages import PROTOCOL, Measure, Measured
from common.wire.structs import Job
from common.wire.tcp import HANDSHAKE_TIMEOUT_S, expect

FOLDER = "profiles"
_ROUNDS = 3
_MEASURING_TIMEOUT_S = 900.0  # a small board and a large model
_MOST_BYTES = 1 << 23


def profile_of(prepared: Prepared, job: Job, codecs: Sequence[str], device: str, folder: Path) -> Profiled:
    """This machine's profile of a job's model: from ``folder``, or measured and kept there.

    The optimizer is the job's, with a learning rate of 0: the weights stay as they are.

    Raises:
        PartitionError: the model serves inference only.
        UsageError: no such codec, or the folder cannot be written to.
    """
    key = Key(prepared.graph.digest, job.batch_size, device)
    if (kept := find(folder, key, tuple(codecs))) is not None:
        return kept
    with one_at_a_time:
        batch = example_batch(prepared.graph.model, job.input_shape, job.batch_size)
        measured = measure(
            prepared.graph,
            (batch,),
            partial(_resting, find_preset(job.optim)),
            model=job.model,
            device=device,
            rounds=_ROUNDS,
            codecs=codecs,
        )
    prepared.graph.model.to("cpu")
    keep(folder, key, measured)
    return measured


def ask_profile(cloud: Cloud, job: Job, codecs: Sequence[str], monitor: LinkMonitor) -> tuple[Profile, Context]:
    """The server's profile, with all that it does in a step, and the link to it as some probes show it.

    Args:
        cloud: the server.
        job: the model, and its batch size.
        codecs: to be timed.
        monitor: told what the probes show.

    Raises:
        ConnectionLost: it cannot be reached.
        PeerError: it refuses the job.
        ProtocolError: what came is no profile.
    """
    with cloud.dial_control() as control:
        control.send(Measure(PROTOCOL, software_version(), job, tuple(codecs)))
        control.set_timeout(_MEASURING_TIMEOUT_S)
        measured = expect(control.receive().frame, Measured)
        control.set_timeout(HANDSHAKE_TIMEOUT_S)
        context = measure_link(control, monitor)
    try:
        unpacker = zlib.decompressobj()
        table, about, besides_s = json.loads(unpacker.decompress(measured.profile, _MOST_BYTES))
        if not 0 <= besides_s < math.inf:
            raise ValueError(f"it computes {besides_s} s besides")
        return longer_tail(loads(table, about).profile("the server"), besides_s), context
    except (zlib.error, ValueError, TypeError, AttributeError) as error:
        raise ProtocolError(f"the server's profile cannot be read: {error}") from None


def loss_s(graph: Graph, objective: Objective, targets: Tensor, device: str) -> float:
    """Seconds that a batch's loss and its gradient take here: what a profile of the model does not have.

    Args:
        graph: of the model, whose outputs the loss is of.
        objective: the loss.
        targets: (B, ...) of a batch.
        device: where it is computed.
    """
    (outputs,) = graph.crossing(len(graph.points) - 1, training=True)
    made = torch.rand(len(targets), *outputs.shape[1:], device=device, requires_grad=True)
    goal, watch, seconds = targets.to(device), Stopwatch(device), []
    for _ in range(WARM_UP + _ROUNDS):
        stop = watch.start()
        loss, _ = objective(made, goal)
        torch.autograd.grad(loss, made)
        seconds.append(stop())
    return statistics.median(seconds[WARM_UP:])


def top_s(prepared: Prepared, job: Job, make_top: Callable[[], nn.Module], objective: Objective, device: str) -> float:
    """Seconds that a step of several parties' top takes here: both passes, loss and update.

    Args:
        prepared: the model of one party; the others' outputs are taken to be like its own.
        job: of this party.
        make_top: the top.
        objective: its loss.
        device: where it computes.
    """
    graph, watch, seconds = prepared.graph, Stopwatch(device), []
    with one_at_a_time, torch.random.fork_rng():
        top = make_top().train().to(device)
        outputs = job.parties * list(graph.crossing(len(graph.points) - 1, training=True))
        told = [torch.rand(job.batch_size, *each.shape[1:], device=device, requires_grad=True) for each in outputs]
        labels = torch.zeros(job.batch_size, dtype=torch.int64, device=device)
        optimizer = _resting(find_preset(job.optim), top.parameters())
        for _ in range(WARM_UP + _ROUNDS):
            stop = watch.start()
            loss, _ = objective(top(*told), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(stop())
    return statistics.median(seconds[WARM_UP:])


def packed(profile: Profiled, besides_s: float) -> bytes:
    """A profile as it travels, with the seconds that the server computes in a step besides the job's model."""
    return zlib.compress(json.dumps([*dumps(profile), besides_s]).encode())


def _resting(preset: Preset, parameters: Iterable[nn.Parameter]) -> Optimizer:
    return preset.make(list(parameters), lr=0.0)
