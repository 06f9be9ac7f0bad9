"""What does a cut cost? ``python -m benchmarks.partition [--models resnet50 yolov8n] [--rounds 31]``.

A step of training (forward and backward pass) of a model in one piece and of its head and tail in the same process,
with nothing between them: side by side, in rounds that alternate. All is in seconds of one thread's own time, on
which other programs weigh less than on the clock; the model against itself shows what is left to chance. Memory is
what torch's allocator gave out at most in a step, beyond the weights: of the whole; of head and tail joined; and split,
where what crosses has a gradient of its own. Beside that, how long tracing takes on a batch of two, with its checks.
"""

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import common  # noqa: F401  lets torchvision, and what needs it, be imported beside any torch
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.partition import trace
from common.partition.graph import Graph
from common.partition.layout import pack, unpack

_SHARES = (25, 50, 75)
_LIMITS = {"torch.fx": 1.02, "torch.export": 1.02, "recorder": 1.15}
_TRACE_LIMIT_S = 1.0
_TRACED = "resnet50"


@dataclass(frozen=True)
class Options:
    """The time and memory of a step across a cut, against the same step of the model in one piece."""

    models: tuple[str, ...] = ()
    """Models to run; default all whose library is installed."""
    rounds: int = 31
    """Rounds; in each, every variant of a model runs once."""
    json: Path | None = None
    """Also write the rows to this file."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Case:
    """A model and a batch for it."""

    library: str
    build: Callable[[Any], nn.Module]
    """Of its library."""
    inputs: Callable[[int], tuple[Any, ...]]
    """By batch size."""
    batch: int = 8


def _images(size: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda batch: (torch.rand(batch, 3, size, size),)


def _scenes(batch: int) -> tuple[Any, ...]:
    targets = [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])} for _ in range(batch)]
    return [torch.rand(3, 96, 128) for _ in targets], targets


def _gpt2(library: Any) -> nn.Module:
    sizes = {"n_embd": 256, "n_layer": 6, "n_head": 8, "n_positions": 64, "vocab_size": 1000}
    config = library.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, use_cache=False, tie_word_embeddings=False)
    model: nn.Module = library.GPT2LMHeadModel(config)
    return model


def _detector(library: Any) -> nn.Module:
    model: nn.Module = library.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=5, min_size=96, max_size=128
    )
    return model


CASES = {
    "resnet50": Case("torchvision.models", lambda library: library.resnet50(num_classes=10), _images(64)),
    "densenet121": Case("torchvision.models", lambda library: library.densenet121(num_classes=10), _images(64)),
    "mobilenet_v3": Case("torchvision.models", lambda library: library.mobilenet_v3_large(), _images(64)),
    "vit_tiny": Case("timm", lambda library: library.create_model("vit_tiny_patch16_224", img_size=96), _images(96)),
    "yolov8n": Case(
        "ultralytics.nn.tasks",
        lambda library: library.DetectionModel("yolov8n.yaml", verbose=False),
        _images(96),
    ),
    "gpt2": Case("transformers", _gpt2, lambda batch: (torch.randint(1000, (batch, 64)),)),
    "fasterrcnn": Case("torchvision.models", _detector, _scenes, batch=2),
}


def main() -> None:
    """Run all cases and print their rows."""
    options = parse(Options)
    if unknown := [name for name in options.models if name not in CASES]:
        raise UsageError(f"there is no case {unknown[0]!r}; known are {', '.join(CASES)}")
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler tells when it starts and stops
    trace(nn.Sequential(nn.Linear(2, 2)), (torch.rand(2, 2),))  # loads what tracing needs
    print(machine())
    rows: list[dict[str, Any]] = []
    traces: list[dict[str, Any]] = []
    for name in options.models or CASES:
        if not _installed(CASES[name].library):
            print(f"{name}: {CASES[name].library.partition('.')[0]} is not installed")
            continue
        torch.manual_seed(0)
        case = CASES[name]
        model = case.build(import_module(case.library)).train()
        graph, traced = _traced(name, model, case.inputs(2))
        traces.append(traced)
        rows += _rows(name, model, graph, case.inputs(case.batch), options.rounds)
    print_table(rows)
    print_table(traces)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows, "traces": traces}, indent=2))


def _installed(library: str) -> bool:
    try:
        import_module(library)
    except ImportError:
        return False
    return True


def _traced(name: str, model: nn.Module, inputs: Sequence[Any]) -> tuple[Graph, dict[str, Any]]:
    """The graph, and how long it takes to make: the first time, and again."""
    times = []
    for _ in range(2):
        started = time.process_time()
        graph = trace(model, inputs)
        times.append(time.process_time() - started)
    row: dict[str, Any] = {
        "model": name,
        "front_end": graph.front_end,
        "points": len(graph.points),
        "trace_s": times[0],
        "again_s": times[1],
        "limit_s": _TRACE_LIMIT_S if name == _TRACED else "",
        "verdict": _verdict(times[0] <= _TRACE_LIMIT_S) if name == _TRACED else "",
    }
    return graph, row


def _rows(name: str, model: nn.Module, graph: Graph, inputs: tuple[Any, ...], rounds: int) -> Iterator[dict[str, Any]]:
    safe = [point for point in graph.points if not point.unsafe]
    points = {share: safe[(len(safe) - 1) * share // 100] for share in _SHARES}
    whole = partial(_whole_step, model, inputs)
    steps: list[Callable[[], None]] = [whole, whole]  # the second is its own control: what it differs by is chance
    steps += [_split_step(graph, point.index, inputs) for point in points.values()]
    for step in steps:
        step()  # the first makes what later ones find: compiled code, caches, the allocator's memory
    seconds = _times(model, steps, rounds)
    peaks = [_peak_bytes(model, step) / 2**20 for step in steps]
    joined = {
        share: _peak_bytes(model, _joined_step(graph, point.index, inputs)) / 2**20 for share, point in points.items()
    }
    limit = _LIMITS[graph.front_end]
    itself = _ratio(seconds[1], seconds[0])[0]
    for number, (share, point) in enumerate(points.items(), start=2):
        ratio, low, high = _ratio(seconds[number], seconds[0])
        yield {
            "model": name,
            "front_end": graph.front_end,
            "cut_%": share,
            "cut": point.name,
            "tensors": len(point.tensors),
            "whole_ms": 1e3 * statistics.median(seconds[0]),
            "split_ms": 1e3 * statistics.median(seconds[number]),
            "of_whole": ratio,
            "low": low,
            "high": high,
            "whole_of_whole": itself,
            "limit": limit,
            "verdict": _verdict(ratio <= limit),
            "whole_mib": peaks[0],
            "joined_mib": joined[share],
            "split_mib": peaks[number],
        }


def _ratio(mine: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of the rounds, and the interval that holds the true median in 19 cases of 20."""
    ratios = sorted(a / b for a, b in zip(mine, other, strict=True))
    # Order statistics around the middle, by the normal approximation of the binomial distribution.
    reach = 0.98 * math.sqrt(len(ratios))
    low, high = int(len(ratios) / 2 - reach), math.ceil(len(ratios) / 2 + reach) - 1
    return statistics.median(ratios), ratios[max(low, 0)], ratios[min(high, len(ratios) - 1)]


def _verdict(good: bool) -> str:
    return "pass" if good else "FAIL"


def _times(model: nn.Module, steps: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    """Seconds of each step in each round; every other round goes backwards, so that no place in it is the better."""
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(rounds):
        places = range(len(steps)) if number % 2 else reversed(range(len(steps)))
        for place in places:
            model.zero_grad(set_to_none=True)
            started = time.process_time()
            steps[place]()
            seconds[place].append(time.process_time() - started)
    return seconds


def _peak_bytes(model: nn.Module, step: Callable[[], None]) -> int:
    """The most that is allocated at a time in a step, gradients and what is kept for the backward pass included."""
    model.zero_grad(set_to_none=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        step()
    results: Any = profile.profiler
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in results.kineto_results.events() if event.name() == "[memory]"
    )
    now = peak = 0
    for _, nbytes in changes:
        now += nbytes
        peak = max(peak, now)
    return peak


def _whole_step(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    _loss(model(*inputs)).backward()  # type: ignore[no-untyped-call]


def _joined_step(graph: Graph, cut: int, inputs: tuple[Any, ...]) -> Callable[[], None]:
    """Head and tail as one graph of gradients: what the parts themselves take."""
    head, tail = (part.train() for part in graph.parts(cut))
    return lambda: _loss(tail(*head(*inputs))).backward()  # type: ignore[no-untyped-call]


def _split_step(graph: Graph, cut: int, inputs: tuple[Any, ...]) -> Callable[[], None]:
    """Head, what would travel, tail, and back."""
    head, tail = (part.train() for part in graph.parts(cut))
    wanted, groups = graph.gradients_wanted(cut), graph.groups(cut, training=True)

    def step() -> None:
        sent = head(*inputs)
        arrived = unpack(*pack(sent, groups))
        leaves = [each.detach().requires_grad_(want) for each, want in zip(arrived, wanted, strict=True)]
        loss = _loss(tail(*(_Received.apply(leaf) if leaf.requires_grad else leaf for leaf in leaves)))  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
        pairs = [(each, leaf.grad) for each, leaf in zip(sent, leaves, strict=True) if leaf.grad is not None]
        torch.autograd.backward([each for each, _ in pairs], [gradient for _, gradient in pairs])

    return step


class _Received(torch.autograd.Function):
    """A received tensor as a value that the tail's operations may write to, as in `common.training.tail`."""

    @staticmethod
    def forward(_ctx: Any, leaf: Tensor) -> Tensor:
        empty = torch.empty(0, dtype=leaf.dtype)
        return empty.set_(leaf.untyped_storage(), leaf.storage_offset(), leaf.shape, leaf.stride())

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _loss(outputs: Any) -> Tensor:
    terms = [each.square().mean() for each in tree_leaves(outputs) if isinstance(each, Tensor) and each.requires_grad]
    return torch.stack(terms).sum()


if __name__ == "__main__":
    run_command(main)
