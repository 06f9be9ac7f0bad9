"""Measuring a traced model on this machine: a profile of its blocks, and of codecs at the cuts between them."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from common.errors import PartitionError
from common.partition.graph import Graph
from common.partition.points import CutPoint, Level
from common.partition.verify import undisturbed
from common.profiling.codecs import Coding, measure_codec, require_codecs
from common.profiling.counting import Counter, energy_mj
from common.profiling.device import device_name
from common.profiling.passes import Block, Crossing, MakeOptimizer, Timed, backward, step
from common.profiling.rows import NAN, About, BlockRow, CodecRow, Measured
from common.profiling.saved import saved_bytes
from common.profiling.stopwatch import Stopwatch
from common.records import environment

DEFAULT_CODECS = ("none", "fp16", "int8", "int4/c", "int8+zstd", "int4/c+zstd")
WARM_UP = 2
_LEVELS: dict[Level, tuple[Level, ...]] = {
    "stage": ("stage",),
    "module": ("stage", "module"),
    "operation": ("stage", "module", "operation"),
}


def measure(
    graph: Graph,
    inputs: Sequence[Any],
    make_optimizer: MakeOptimizer,
    *,
    model: str,
    device: torch.device | str = "cpu",
    level: Level = "stage",
    rounds: int = 5,
    codecs: Sequence[str] = DEFAULT_CODECS,
    meter: Counter | None = None,
    progress: bool = False,
) -> Measured:
    """Time every block in ``rounds`` training steps, and every codec at every cut; medians count.

    Weights stay as they are if the optimizer's learning rate is 0; buffers are put back. The model is moved to
    the device.

    Args:
        graph: the traced model.
        inputs: a batch by position, of the batch size that the profile is for.
        make_optimizer: of a block's parameters.
        model: its name, for the record.
        device: where to measure.
        level: how fine the blocks are.
        rounds: how often, behind a warm-up.
        codecs: specs; those that do not serve a direction are left out in it.
        meter: counts energy, if there is one.
        progress: whether to show a bar.

    Raises:
        PartitionError: the model serves inference only.
        UsageError: a spec that names no codec.
    """
    require_codecs(codecs)
    specs = list(dict.fromkeys(["none", *codecs]))
    points = _points(graph, level)
    watch = Stopwatch(device)
    total = WARM_UP + rounds + len(points)
    with undisturbed(graph.model), tqdm(total=total, disable=None if progress else True, leave=False) as bar:
        blocks = list(_blocks(graph, points, make_optimizer, device))
        batch = tree_map(lambda each: each.to(device) if isinstance(each, Tensor) else each, tuple(inputs))
        seconds: list[list[Timed]] = []
        for _ in range(WARM_UP + rounds):
            timed, crossings = step(blocks, batch, watch)
            seconds.append(timed)
            bar.update()
        saved = saved_bytes(
            [partial(_computed, *each) for each in zip(blocks, crossings[:-1], strict=True)],
            [*graph.model.parameters(), *graph.model.buffers()],
        )
        energy = [_energy(blocks[i], crossings[i], crossings[i + 1], watch, meter) for i in range(len(blocks))]
        coded: list[dict[str, CodecRow]] = []
        for crossing in crossings:
            coded.append({spec: _coded(spec, crossing, watch, rounds) for spec in specs})
            bar.update()
    for parameter in graph.model.parameters():
        parameter.grad = None
    rows = _rows(points, blocks, seconds[WARM_UP:], saved, energy, coded)
    about = About(
        model=model,
        digest=graph.digest,
        batch_size=len(inputs[0]),
        device=torch.device(device).type,
        device_name=device_name(device),
        threads=torch.get_num_threads(),
        rounds=rounds,
        level=level,
        optimizer=next((type(each.optimizer).__name__ for each in blocks if each.optimizer), ""),
        meter=meter.name if meter else "",
        environment=environment(),
    )
    return Measured(about, tuple(rows))


def _points(graph: Graph, level: Level) -> list[CutPoint]:
    """The cuts to profile, the first and the last of the graph among them."""
    if graph.untrainable:
        raise PartitionError(f"a profile is of training, and this model serves inference only: {graph.untrainable}")
    first, *inner, last = graph.points
    return [first, *(each for each in inner if each.level in _LEVELS[level] and graph.in_training(each.index)), last]


def _blocks(
    graph: Graph, points: Sequence[CutPoint], make_optimizer: MakeOptimizer, device: torch.device | str
) -> Iterator[Block]:
    cuts = [point.index for point in points[1:-1]]
    wanted: list[tuple[bool, ...] | None] = [*(graph.gradients_wanted(cut) for cut in cuts), None]
    for part, before, behind in zip(graph.chain(cuts), [(), *wanted], wanted, strict=False):
        block = Block(part.train().to(device), before or (), behind)
        block.equip(make_optimizer)
        yield block


def _computed(block: Block, crossing: Crossing) -> tuple[Sequence[Any], Any]:
    values, _ = block.inputs(crossing)
    return values, block.part(*values)


def _energy(block: Block, before: Crossing, behind: Crossing, watch: Stopwatch, meter: Counter | None) -> float:
    """Of one block's step, in mJ; NaN without a meter."""
    if meter is None:
        return NAN

    def work() -> None:
        with torch.no_grad():
            block.part(*block.inputs(before)[0])
        backward(block, before, behind, watch)

    return energy_mj(meter, work)


def _coded(spec: str, crossing: Crossing, watch: Stopwatch, rounds: int) -> CodecRow:
    activations = [each for each in tree_leaves(crossing.values) if isinstance(each, Tensor)]
    nothing = Coding(NAN, NAN, NAN)
    up = measure_codec(spec, "up", activations, watch, rounds) or nothing
    down = measure_codec(spec, "down", crossing.gradients, watch, rounds) or nothing
    return CodecRow(*up, *down)


def _rows(
    points: Sequence[CutPoint],
    blocks: Sequence[Block],
    seconds: Sequence[Sequence[Timed]],
    saved: Sequence[int],
    energy: Sequence[float],
    coded: Sequence[Mapping[str, CodecRow]],
) -> Iterator[BlockRow]:
    first = points[0]
    nothing = 0.0 * energy[0]  # NaN without a meter
    yield BlockRow(first.index, first.name, first.unsafe, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, nothing, coded[0])
    for i, (point, block) in enumerate(zip(points[1:], blocks, strict=True)):
        optimizer = block.optimizer
        states = [each for state in optimizer.state.values() for each in state.values()] if optimizer else []
        yield BlockRow(
            point.index,
            point.name,
            point.unsafe,
            **{name: statistics.median(each[i][name] for each in seconds) for name in seconds[0][i]},
            parameter_bytes=_nbytes([*block.part.parameters(), *block.part.buffers()]),
            optimizer_bytes=_nbytes([each for each in states if isinstance(each, Tensor)]),
            saved_bytes=saved[i],
            energy_mj=energy[i],
            codecs=coded[i + 1],
        )


def _nbytes(tensors: Sequence[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)
