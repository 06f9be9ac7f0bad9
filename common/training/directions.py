"""Which half of a model each side holds, and which codec is for what, by the way that a job's activations go."""

import torch

from common.codec.limit import DEFAULT_MB
from common.errors import UsageError
from common.training.cloud_head import CloudHead, InputForm
from common.training.delay import NO_CORRECTION, NOT_LATE, Delay, Late
from common.training.edge_tail import EdgeTail
from common.training.exchange import Objective
from common.training.half import Half
from common.training.part_state import State
from common.training.prepare import Prepared, make_head, make_tail
from common.training.station import CloudHalf
from common.training.tail import Tail
from common.wire.structs import Job


def make_edge_half(
    prepared: Prepared,
    job: Job,
    *,
    device: str,
    objective: Objective,
    taylor: bool = False,
    stash: bool = False,
    memory_mb: int = DEFAULT_MB,
    state: State | None = None,
    delay: Delay = NO_CORRECTION,
    late: Late = NOT_LATE,
) -> Half:
    """The edge's half of a job; see `make_head` and `make_tail`, and `EdgeTail` for ``late``.

    Raises:
        UsageError: a codec that cannot be, or what a head at the cloud is not told.
        PartitionError: there is no such cut, or training would be wrong there.
    """
    if job.direction == "up":
        if late != NOT_LATE:
            raise UsageError("a head at the edge is told of late gradients by --lookahead and --gradient_shrink")
        return make_head(
            prepared,
            job,
            device=device,
            taylor=taylor,
            stash=stash,
            memory_mb=memory_mb,
            state=state,
            objective=objective,
            delay=delay,
        )
    if taylor or stash or delay != NO_CORRECTION:
        raise UsageError("a head at the cloud replays its steps, and knows of delay what the edge tells it in each")
    tail = make_tail(prepared, job, device=device, objective=objective, memory_mb=memory_mb, state=state)
    return EdgeTail(tail, stale_it=job.stale_it, late=late)


def make_cloud_half(
    prepared: Prepared,
    job: Job,
    *,
    device: str,
    objective: Objective,
    memory_mb: int = DEFAULT_MB,
    state: State | None = None,
    common: CloudHalf | None = None,
) -> CloudHalf:
    """The cloud's half of a job. A tail that is made with another in ``common`` has its part and its optimizer.

    Raises:
        UsageError: a codec that cannot be, or a head that is to be ``common``.
        PartitionError: there is no such cut, or training would be wrong there.
    """
    if job.direction == "up":
        same = common if isinstance(common, Tail) else None
        return make_tail(
            prepared, job, device=device, objective=objective, memory_mb=memory_mb, state=state, common=same
        )
    if common is not None:
        raise UsageError("a head at the cloud is its session's own: start the server without --share")
    head = make_head(prepared, job, device=device, taylor=False, memory_mb=memory_mb, state=state)
    dtype = torch.int64 if job.vocabulary else torch.float32
    return CloudHead(head, InputForm(job.input_shape, dtype, job.batch_size), stale_it=job.stale_it)
