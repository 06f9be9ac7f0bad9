"""In evaluation: does every cut give the outputs of the model, bit for bit?"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.graph import Graph
from common.partition.points import CutPoint
from tests.zoo.crossing import Leaf, across, as_traced, difference, give_own, kept, leaves, seed
from tests.zoo.entry import Inputs

_SAMPLE = 8
_RECORDED_SAMPLE = 24


@dataclass(frozen=True)
class Evaluated:
    """What was compared, and the first cut that is wrong."""

    cuts: str
    failure: str = ""


def evaluate(model: nn.Module, graph: Graph, batch: Callable[[], Inputs], budget_s: float) -> Evaluated:
    """Compare the model with its parts.

    Each point is cut for itself where that fits the budget. Where not, the model is cut at all points at once, and
    at some for itself; if all at once differ, which may be rounding that adds up, for itself at as many points as
    fit. A part of a recording runs all of the model's Python code, so that only some points are cut.

    Args:
        model: what was traced.
        graph: its trace.
        batch: makes the inputs of a forward pass.
        budget_s: for cuts one by one.
    """
    model.eval()
    expected = _outputs(model, [model], graph, [], batch)
    again = difference(expected, _outputs(model, [model], graph, [], batch))
    if again:
        return Evaluated("", f"the model itself gives other outputs the second time ({again:.1e})")
    count = len(graph.points)
    if graph.front_end == "recorder":
        chosen = spread(graph.points, _RECORDED_SAMPLE)
        return Evaluated(f"{len(chosen)} of {count}", _one_by_one(model, graph, batch, expected, chosen))
    started = time.perf_counter()
    sample = spread(graph.points, _SAMPLE)
    failure = _one_by_one(model, graph, batch, expected, sample)
    cut_s = (time.perf_counter() - started) / len(sample)
    if failure:
        return Evaluated(f"{len(sample)} of {count}", failure)
    if cut_s * count <= budget_s:
        return Evaluated("each", _one_by_one(model, graph, batch, expected, graph.points))
    error = difference(expected, _at_once(model, graph, batch))
    if not error:
        return Evaluated(f"all at once, {len(sample)} alone")
    chosen = spread(graph.points, max(_SAMPLE, int(budget_s / cut_s)))
    failure = _one_by_one(model, graph, batch, expected, chosen)
    return Evaluated(f"{len(chosen)} of {count}", failure or f"all cuts at once: outputs differ by {error:.1e}")


def spread(points: Sequence[CutPoint], count: int) -> list[CutPoint]:
    """So many points from first to last, or all where there are no more."""
    last = len(points) - 1
    return [points[i] for i in sorted({last * i // max(count - 1, 1) for i in range(min(count, last + 1))})]


def _one_by_one(
    model: nn.Module, graph: Graph, batch: Callable[[], Inputs], expected: Sequence[Leaf], points: Sequence[CutPoint]
) -> str:
    """The first cut that is wrong, and how many are; empty where none is."""
    wrong = [what for point in points if (what := _wrong(model, graph, batch, expected, point))]
    return f"{len(wrong)} of {len(points)} cuts are wrong: {wrong[0]}" if wrong else ""


def _wrong(
    model: nn.Module, graph: Graph, batch: Callable[[], Inputs], expected: Sequence[Leaf], point: CutPoint
) -> str:
    crossed: list[Tensor] = []
    try:
        head, tail = graph.parts(point.index)
        head.register_forward_hook(lambda *run: crossed.extend(run[2]))
        error = difference(expected, _outputs(model, [head, tail], graph, [point.index], batch))
    except Exception as failure:  # noqa: BLE001  one cut that fails says nothing about the others
        return f"{named(point)}: {type(failure).__name__}: {failure}"
    if error:
        return f"{named(point)}: outputs differ by {error:.1e}"
    # How many boxes a detector finds is up to the image, and the model's code decides it anew in each pass. Where that
    # leads it another way than in the recording, other tensors have to cross.
    sizes_are_free = graph.front_end == "recorder"
    if not as_traced(graph, point.index, crossed, training=False) and not _takes_the_traced_way(graph, batch):
        return ""
    told = [(len(shape) if sizes_are_free else shape, dtype) for shape, dtype in point.tensors]
    found = [(each.dim() if sizes_are_free else tuple(each.shape), each.dtype) for each in crossed]
    return "" if found == told else f"{named(point)}: other tensors crossed than the point says"


def _takes_the_traced_way(graph: Graph, batch: Callable[[], Inputs]) -> bool:
    args, kwargs = batch()
    try:
        graph.walk(args, kwargs, lambda _: None)
    except PartitionError:
        return False
    return True


def named(point: CutPoint) -> str:
    """A point as it is told."""
    return f"{point.name} ({point.index})"


def _at_once(model: nn.Module, graph: Graph, batch: Callable[[], Inputs]) -> list[Leaf]:
    indices = [point.index for point in graph.points]
    return _outputs(model, graph.chain(indices), graph, indices, batch)


def _outputs(
    model: nn.Module, parts: Sequence[nn.Module], graph: Graph, cuts: Sequence[int], batch: Callable[[], Inputs]
) -> list[Leaf]:
    args, kwargs = batch()
    for part in parts:
        part.eval()
    with kept(model), torch.no_grad():
        seed(0)
        objects = give_own(parts, kwargs)
        return leaves(across(parts, graph, cuts, args, kwargs), objects)
