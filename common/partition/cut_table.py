"""The cut table of a model: what would cross at each point, and the parameters and operations on either side."""

import csv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common.errors import PartitionError, UsageError
from common.models.own import choose_model
from common.partition import trace
from common.partition.graph import Graph
from common.partition.inputs import fresh
from common.partition.points import Level
from common.partition.verify import undisturbed

_LEVELS: dict[Level, tuple[Level, ...]] = {
    "stage": ("stage",),
    "module": ("stage", "module"),
    "operation": ("stage", "module", "operation"),
}
_COLUMNS = {
    "index": "index",
    "name": "name",
    "level": "level",
    "crosses": "crosses",
    "activations_kib": "KiB",
    "parameters_before": "parameters before",
    "parameters_behind": "behind",
    "mflops_before": "MFLOPs before",
    "mflops_behind": "behind",
    "unsafe": "not for training:",
}
_WORDS = {"name", "level", "crosses", "unsafe"}  # these columns stand at the left, numbers at the right
_MOST_SHAPES = 3
_LARGEST = 1 << 20  # of any size that is asked for


@dataclass(frozen=True)
class CutRow:
    """A cut point, with all sizes of one sample."""

    index: int
    name: str
    level: Level
    crosses: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    """(shape, dtype) of each tensor."""
    activations_kib: float
    parameters_before: int
    parameters_behind: int
    mflops_before: float
    """Of the forward pass: matrix products and convolutions; a multiplication and an addition are two."""
    mflops_behind: float
    unsafe: str = ""
    """Why training must not be cut here; empty where it may."""


def trace_example(model: str, num_classes: int, sizes: str, batch_size: int) -> tuple[Graph, tuple[Any, ...]]:
    """A model, traced on random inputs, and these.

    Args:
        model: its name.
        num_classes: width of its last layer.
        sizes: channels, height and width of an image with commas between; empty for the model's own.
        batch_size: how many samples.

    Raises:
        UsageError: no such model, sizes that are none, or sizes for a model that takes no images.
        PartitionError: the model cannot be traced, or fails on images of this size.
    """
    for flag, value in (("num_classes", num_classes), ("batch_size", batch_size)):
        if not 1 <= value <= _LARGEST:
            raise UsageError(f"--{flag} is {value}; it must be 1 to {_LARGEST}")
    chosen = choose_model(model)
    shape = None
    if sizes:
        C, H, W = _parsed(sizes)
        shape = (C, H, W)
    try:
        inputs = chosen.example(batch_size, shape)
        graph = trace(chosen.build(num_classes), inputs)
    except (PartitionError, RuntimeError) as error:  # torch's own, where memory is too small
        given = f"--batch_size {batch_size} --num_classes {num_classes}"
        given = f"--input {','.join(map(str, shape))} {given}" if shape else given
        raise PartitionError(f"{model} with {given}: {str(error).splitlines()[0]}") from error
    return graph, inputs


def cut_table(graph: Graph, inputs: Sequence[Any], level: Level = "operation") -> list[CutRow]:
    """The rows of the points down to a zoom level, in order.

    Args:
        graph: the traced model.
        inputs: the example that it was traced on, or one of the same shapes.
        level: ``stage`` shows the ends of blocks, ``module`` those of layers too, ``operation`` all points.
    """
    flops = cumulative_flops(graph, inputs)
    batch = len(inputs[0])  # a tensor, or a list of images
    parameters = graph.points[-1].parameters_before
    rows = []
    for point in graph.points:
        if point.level not in _LEVELS[level]:
            continue
        before = flops[graph.steps_before(point.index)]
        rows.append(
            CutRow(
                point.index,
                point.name,
                point.level,
                tuple((_of_one(shape, batch), dtype) for shape, dtype in point.tensors),
                point.activation_bytes / batch / 1024,
                point.parameters_before,
                parameters - point.parameters_before,
                before / batch / 1e6,
                (flops[-1] - before) / batch / 1e6,
                point.unsafe,
            )
        )
    return rows


def cumulative_flops(graph: Graph, inputs: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[int]:
    """Operations of a forward pass of the whole batch, before each step and behind the last.

    As torch's `FlopCounterMode` counts them: what attention fuses is taken apart first, or it would count as nothing.
    """
    counter = FlopCounterMode(display=False)
    totals = [0]
    args, named = fresh(inputs, kwargs or {})
    with ExitStack() as stack:
        stack.enter_context(undisturbed(graph.model))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.enable_grad())  # without it, attention layers take a path that is not counted
        graph.model.eval()
        stack.enter_context(counter)
        graph.walk(args, named, lambda _: totals.append(counter.get_total_flops()))
    return totals


def save_table(path: Path, rows: Sequence[CutRow]) -> None:
    """Save the rows as CSV, units in the header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for row in rows:
            writer.writerow(crossing(row) if name == "crosses" else getattr(row, name) for name in _COLUMNS)


def table_lines(rows: Sequence[CutRow]) -> list[str]:
    """The rows as lines of text, under a heading."""
    shown = {name: title for name, title in _COLUMNS.items() if name != "unsafe" or any(row.unsafe for row in rows)}
    cells = [[_cell(row, name) for name in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(shown.values(), *cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if name in _WORDS else cell.rjust(width)
            for name, cell, width in zip(shown, line, widths, strict=True)
        ).rstrip()
        for line in ([*shown.values()], *cells)
    ]


def served_lines(graph: Graph) -> list[str]:
    """Which front end served, and why those before it did not."""
    lines = [f"traced by {graph.front_end}", *(f"not by {each}" for each in graph.report)]
    return [*lines, f"for inference only: {graph.untrainable}"] if graph.untrainable else lines


def crossing(row: CutRow, most: int | None = None) -> str:
    """What crosses, such as ``16x32x32 + 32x16x16 float32``; of more tensors than ``most`` the first and the number."""
    shown = row.crosses[:most]
    words = []
    for i, (shape, dtype) in enumerate(shown):
        # A dtype stands once behind all tensors in a row that have it.
        last = i + 1 == len(shown) or shown[i + 1][1] != dtype
        words.append(("x".join(map(str, shape)) or "1") + (f" {str(dtype).removeprefix('torch.')}" if last else ""))
    more = len(row.crosses) - len(shown)
    return " + ".join(words) + (f" + {more} more" if more else "")


def _cell(row: CutRow, name: str) -> str:
    if name == "crosses":
        return crossing(row, _MOST_SHAPES)
    value = getattr(row, name)
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _of_one(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The shape for one sample; where the first axis is several to a sample (windows of an image), with these."""
    if not shape or shape[0] % batch:
        return shape
    return shape[1:] if shape[0] == batch else (shape[0] // batch, *shape[1:])


def _parsed(sizes: str) -> tuple[int, ...]:
    words = sizes.split(",")
    if len(words) != 3 or not all(word.strip().isdecimal() and 1 <= int(word) <= _LARGEST for word in words):
        raise UsageError(f"--input is {sizes!r}; it is channels,height,width of an image, such as 3,224,224")
    return tuple(int(word) for word in words)
