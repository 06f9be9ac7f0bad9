"""From a job to a head or a tail: both sides build the model from the seed, cut it, and keep their part."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import nn

from common.codec import Codec, make_codec
from common.codec.limit import DEFAULT_MB, MemoryLimit, mebibytes
from common.errors import ProtocolError, UsageError
from common.partition import trace
from common.partition.graph import Graph
from common.partition.layout import most_bytes
from common.partition.steps import state_of
from common.training.activation_cache import CacheIndex, CachingCodec, require_repeatable
from common.training.auxiliary import make_auxiliary
from common.training.delay import NO_CORRECTION, Delay
from common.training.digest import combined_digest, parameter_digests
from common.training.exchange import Objective
from common.training.head import Head
from common.training.optimizers import Preset, Updater, late_preset_of, preset_of
from common.training.part_state import State, optimizer_state, put_values
from common.training.randomness import one_at_a_time
from common.training.tail import Tail
from common.wire.structs import Job

MAX_MODEL_BYTES = 4 << 30
_ANOTHER_WAY = 4  # how much more may cross where a recorded model does not go the way of its recording
STATE_COPIES = 4
"""What training takes of a part's weights: themselves, gradients, two slots of the optimizer."""
EXAMPLE_SIZE = 2
"""Samples of the batch that a model is traced with; BatchNorm trains on two or more."""


@dataclass(frozen=True)
class Prepared:
    """A model initialised from the seed, traced."""

    graph: Graph
    weights_digest: str


def prepare(build: Callable[[], nn.Module], input_shape: tuple[int, ...], seed: int) -> Prepared:
    """Build the model with the seed's weights and trace it; torch's own random state stays as it was.

    Raises:
        UsageError: there is no such model, or it is too large.
        PartitionError: it cannot be traced.
    """
    with one_at_a_time:
        _check_size(build)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build()
            example = example_batch(model, input_shape)
        return Prepared(trace(model, (example,)), combined_digest(parameter_digests(model)))


def example_batch(model: nn.Module, input_shape: tuple[int, ...], count: int = EXAMPLE_SIZE) -> torch.Tensor:
    """A random batch: numbers of words for a model that has a ``vocabulary`` of them, else values from 0 to 1."""
    words = vocabulary(model)
    return torch.randint(words, (count, *input_shape)) if words else torch.rand(count, *input_shape)


def vocabulary(model: nn.Module) -> int:
    """How many numbers of words a model knows, where it takes texts: its attribute ``vocabulary``; else 0."""
    words = getattr(model, "vocabulary", 0)
    return words if isinstance(words, int) else 0


def _check_size(build: Callable[[], nn.Module]) -> None:
    """Refuse a model too large, before any memory is taken for it."""
    with torch.device("meta"):
        nbytes = sum(each.numel() * each.element_size() for each in build().state_dict().values())
    if nbytes > MAX_MODEL_BYTES:
        raise UsageError(
            f"the model's parameters would take {nbytes / 2**20:.0f} MiB; the limit is {MAX_MODEL_BYTES / 2**20:.0f}"
        )


def make_head(
    prepared: Prepared,
    job: Job,
    *,
    device: str,
    taylor: bool,
    stash: bool = False,
    memory_mb: int = DEFAULT_MB,
    state: State | None = None,
    objective: Objective | None = None,
    delay: Delay = NO_CORRECTION,
) -> Head:
    """The head of a job.

    Args:
        prepared: the model.
        job: with the cut.
        device: where the head computes.
        taylor: correct gradients for the codec's error.
        stash: keep graphs and weights instead of replaying forward passes.
        memory_mb: what codecs may remember.
        state: of the part and its optimizer, where it is not the model's first one.
        objective: what the loss is, for jobs whose loss, or whose head's, is computed at the edge.
        delay: what is done about gradients being late.

    Raises:
        UsageError: a codec that cannot be, or whose memory would be beyond ``memory_mb``.
        PartitionError: there is no such cut, or training would be wrong there.
    """
    graph = prepared.graph
    graph.require_trainable(job.cut)
    part, _ = graph.parts(job.cut)
    require_frozen(job)
    if job.direction == "down":
        _guard(part, graph, 0)  # its inputs come from a peer
    auxiliary = None
    if job.gradients == "local" and objective is not None:
        auxiliary = make_auxiliary(graph, job, objective, preset_of(job), device, state or {})
    head = Head(
        part,
        updater_of(part, job, device, state, late_preset_of(job)),
        *_codecs(graph, job, memory_mb),
        gradients_wanted=graph.gradients_wanted(job.cut),
        groups=graph.groups(job.cut, training=True),
        evaluation_groups=graph.groups(job.cut, training=False),
        evaluation_count=len(graph.crossing(job.cut, training=False)),
        stale_it=job.stale_it,
        seed=job.seed,
        objective=objective if job.labels == "edge" and job.direction == "up" else None,
        sends_labels=job.labels == "cloud",
        evaluations_answered=job.direction == "up",
        delay=delay,
        auxiliary=auxiliary,
        cache=CacheIndex() if job.kept else None,
        taylor=taylor,
        stash=stash,
        device=device,
    )
    if job.kept:
        if graph.data_dependent:
            raise UsageError(
                f"--cache_activations: what crosses at {job.cut_name} depends on the data in this model, so a batch "
                "cannot be put together again from its samples; leave the flag out"
            )
        with one_at_a_time, torch.random.fork_rng():
            torch.manual_seed(job.seed)
            example = example_batch(graph.model, job.input_shape, 3)
        require_repeatable(head.trial, example)
    return head


def make_tail(
    prepared: Prepared,
    job: Job,
    *,
    device: str,
    objective: Objective,
    memory_mb: int = DEFAULT_MB,
    state: State | None = None,
    common: Tail | None = None,
) -> Tail:
    """The tail of a job; see `make_head`. One that is made with another in ``common`` has its part and its optimizer.

    Raises:
        UsageError: a codec that cannot be, or whose memory would be beyond ``memory_mb``.
        PartitionError: there is no such cut, or training would be wrong there.
    """
    graph = prepared.graph
    graph.require_trainable(job.cut)
    require_frozen(job)
    up, down = _codecs(graph, job, memory_mb)
    if common is not None:
        part, updater = common.part, common.updater
    else:
        _, part = graph.parts(job.cut)
        updater = updater_of(part, job, device, state)
        _guard(part, graph, job.cut)
    return Tail(
        part,
        updater,
        _caching(up, graph, job, memory_mb) if job.kept else up,
        down,
        objective=objective,
        example=_forms(graph, job.cut, training=True),
        evaluation_example=_forms(graph, job.cut, training=False),
        data_dependent=graph.data_dependent,
        example_size=EXAMPLE_SIZE,
        most_bytes=largest_body(graph, job),
        batch_size=job.batch_size,
        num_classes=job.num_classes,
        labels_here=job.labels == "cloud",
        seed=job.seed,
        device=device,
    )


def _guard(part: nn.Module, graph: Graph, cut: int) -> None:
    """Make a part that takes the model's inputs themselves refuse what the model does not know.

    That are numbers of no word (on a GPU they would end the program), and what the model's own ``check_inputs`` says.
    """
    words, own = vocabulary(graph.model), getattr(graph.model, "check_inputs", None)
    guarded = words or own is not None
    places = {
        training: _inputs_crossing(graph, cut, training=training) if guarded else [] for training in (True, False)
    }

    def check(module: nn.Module, received: tuple[torch.Tensor, ...]) -> None:
        for each in (received[i] for i in places[module.training]):
            if own is not None:
                own(each)
                continue
            lowest, highest = int(each.min()), int(each.max())
            if lowest < 0 or highest >= words:
                raise ProtocolError(f"words from {lowest} to {highest} came; the model knows {words}, counted from 0")

    if any(places.values()):
        part.register_forward_pre_hook(check)


def _inputs_crossing(graph: Graph, cut: int, *, training: bool) -> list[int]:
    """Which of the tensors that cross are the model's own inputs."""
    inputs = graph.crossing(0, training=training)
    return [i for i, leaf in enumerate(graph.crossing(cut, training=training)) if leaf in inputs]


def updater_of(part: nn.Module, job: Job, device: str, state: State | None, preset: Preset | None = None) -> Updater:
    """Put a part's state in place, and the part on its device; its optimizer, where that has left off."""
    if state is not None:
        put_values(part, state)
    part.to(device)
    part.train()  # its layers may be those of a part that has evaluated last
    updater = Updater(preset or preset_of(job), part, job.learning_rate)
    if state is not None:
        own = {name for name, _ in part.named_parameters()}
        updater.load_state({key: value for key, value in optimizer_state(state).items() if key[0] in own})
    return updater


def _forms(graph: Graph, cut: int, *, training: bool) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(leaf.shape, leaf.dtype) for leaf in graph.crossing(cut, training=training)]


def _codecs(graph: Graph, job: Job, memory_mb: int) -> tuple[Codec, Codec]:
    """Codecs of activations and of gradients, whichever way these go.

    The memory that they will need is known before training, and told where it is too much.
    """
    up = make_codec(job.activations_codec, "up", seed=job.seed, memory_mb=memory_mb, samples=job.samples)
    down = make_codec(job.gradients_codec, "down", seed=job.seed, memory_mb=memory_mb)
    if up.spec.memory == "delta":
        crossing = graph.crossing(job.cut, training=True)
        sample_bytes = sum(leaf.nbytes for leaf in crossing if leaf.dtype.is_floating_point) // EXAMPLE_SIZE
        if sample_bytes * job.samples > memory_mb << 20:
            raise UsageError(
                f"{up.name} would remember {sample_bytes / 1024:.1f} KiB of each of {job.samples} samples, "
                f"{mebibytes(sample_bytes * job.samples)} MiB on each side; the limit is {memory_mb}: raise "
                "--codec_memory_mb on both sides, cut where less crosses, or leave delta out"
            )
    return up, down


def require_frozen(job: Job) -> None:
    """Refuse to keep activations that training changes."""
    if job.kept and job.cut > job.frozen:
        raise UsageError(
            f"--cache_activations: the head up to {job.cut_name} (cut {job.cut}) is not all frozen, so its activations "
            "change as it trains; freeze all of it with --freeze, cut earlier, or leave the flag out"
        )
    if job.kept and "delta+" in job.compress_up:
        raise UsageError(
            f"--cache_activations sends each sample once, and --compress_up {job.compress_up} what changed since then; "
            f"use {job.compress_up.replace('delta+', '')}"
        )


def kept_bytes(graph: Graph, job: Job) -> int:
    """What the cloud keeps of activations, in bytes."""
    if not job.kept:
        return 0
    both = (graph.crossing(job.cut, training=training) for training in (True, False))
    return job.kept * (max(sum(leaf.nbytes for leaf in leaves) for leaves in both) // EXAMPLE_SIZE)


def _caching(codec: Codec, graph: Graph, job: Job, memory_mb: int) -> CachingCodec:
    """The cloud's codec with its memory of activations; what that will need is known before training."""
    nbytes = kept_bytes(graph, job)
    if nbytes > memory_mb << 20:
        raise UsageError(
            f"--cache_activations would keep {nbytes / job.kept / 1024:.1f} KiB of each of {job.kept} samples, "
            f"{mebibytes(nbytes)} MiB on the server; the limit is {memory_mb}: raise "
            "--codec_memory_mb there, cut where less crosses, or leave the flag out"
        )
    return CachingCodec(codec, MemoryLimit(memory_mb << 20))


def largest_body(graph: Graph, job: Job) -> int:
    """Bytes of the largest body that a step of the job can have, in either direction; no codec adds to its slack."""
    cuts = {job.cut} if job.direction == "up" else {job.cut, 0}  # else the inputs themselves are sent, too
    in_example = max(
        most_bytes(graph.crossing(cut, training=training), graph.groups(cut, training=training))
        for training in (True, False)
        for cut in cuts
    )
    # In proportion to the samples, or the same for any number of them.
    examples = -(-max(job.batch_size, EXAMPLE_SIZE) // EXAMPLE_SIZE)
    if graph.data_dependent:
        in_example = _ANOTHER_WAY * in_example + (1 << 20)
    return examples * in_example + job.batch_size * 16 + (1 << 16)


def largest_frame(graph: Graph, job: Job) -> int:
    """Bytes of the largest body of a session: of a step, or of blocks that move with their optimizer's state."""
    weights = sum(value.nbytes for value in state_of(graph.model).values())
    return max(largest_body(graph, job), STATE_COPIES * weights + (1 << 16))


def largest_of_any_cut(graph: Graph, job: Job) -> int:
    """Bytes of the largest body of a session whose cut may be moved to wherever its edge asks."""
    cuts = {job.cut, *(each.index for each in graph.points if not each.unsafe)}
    return max(largest_frame(graph, msgspec.structs.replace(job, cut=cut)) for cut in cuts)
