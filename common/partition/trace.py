"""Trace a model into a graph that can be cut, and verify the trace against the model.

Two front ends make graphs: torch.fx, then torch.export. Where neither can follow the model's Python code, a recording
of a forward pass serves. The first that computes what the model does, in both modes, is taken.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from common.errors import PartitionError
from common.partition.cache import find, keep, key_of
from common.partition.exported import exported
from common.partition.fx_trace import Captured, FxTrace, observed
from common.partition.graph import Graph, MakeParts
from common.partition.inputs import InputForm, by_name, fresh, require_plain
from common.partition.liveness import Position
from common.partition.parts import fx_parts
from common.partition.recording import record, recorded_parts
from common.partition.sizes import fixed_sizes
from common.partition.steps import Trace
from common.partition.symbolic import symbolic
from common.partition.verify import FAILURES, Outcome, attributes_kept, outcome, require_equal, through, undisturbed

Capture = Callable[[nn.Module, Sequence[Any], Mapping[str, Any]], Captured]


def trace(model: nn.Module, example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Trace ``model`` on an example, by the first front end whose parts compute what the model does.

    Args:
        model: any module; its parameters are shared with the graph, not copied.
        example_inputs: positional inputs of a batch (two samples or more where BatchNorm trains): tensors, or any
            nesting of tensors and plain values. The batch size stays free afterwards.
        example_kwargs: inputs by name.

    Raises:
        PartitionError: the model fails on the example; or no front end can trace it, with the line that stops each.
    """
    kwargs = example_kwargs or {}
    key = key_of(model, example_inputs, kwargs)
    if (known := find(key, model)) is not None:
        return known
    graph = _traced(model, example_inputs, kwargs)
    keep(key, graph)
    return graph


def _traced(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
    name = type(model).__name__
    try:
        example = _Example(model, args, kwargs)
    except FAILURES as error:
        raise PartitionError(f"{name} fails on the example inputs: {_first_line(error)}{_place(error)}") from error
    refused: list[str] = []
    spare: Graph | None = None
    for front_end, build in _FRONT_ENDS.items():
        try:
            graph = build(example, front_end)
        except Exception as error:  # noqa: BLE001  tracing runs the model's own code on what is no tensor
            refused.append(f"{front_end}: {_first_line(error)}{_place(error)}")
            continue
        graph.report = tuple(refused)
        if not graph.untrainable or example.untrainable:
            return graph
        refused.append(f"{front_end}: in training mode, {graph.untrainable}")
        spare = spare or graph
    if spare is not None:
        return spare
    raise PartitionError(f"{name} cannot be traced. " + "; ".join(refused))


class _Example:
    """A model, what it is traced on, and what it does with that."""

    def __init__(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.model, self.args, self.kwargs = model, tuple(args), by_name(kwargs)
        self.untrainable = ""
        """Why the model itself does not run in training mode on this example."""
        self.expected: dict[bool, Outcome] = {}
        """By mode; none for a model without weights (on the meta device), which is traced but cannot be verified."""
        if any(each.is_meta for each in model.parameters()):
            self.args, self.kwargs = tree_map(_on_meta, (self.args, self.kwargs))
            return
        self.expected[False] = outcome(model, model, args, kwargs, training=False)
        try:
            self.expected[True] = outcome(model, model, args, kwargs, training=True)
        except FAILURES as error:
            self.untrainable = f"the model fails on the example inputs: {_first_line(error)}"

    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """For one more run."""
        return fresh(self.args, self.kwargs)


def _from_graphs(capture: Capture, sizes_free: bool, example: _Example, front_end: str) -> Graph:
    require_plain(example.args, example.kwargs)
    form = InputForm(example.args, example.kwargs)
    traces: dict[bool, Trace] = {}
    untrainable = example.untrainable
    traces[False] = _observed(capture, example, training=False)
    if not untrainable:
        try:
            traces[True] = _observed(capture, example, training=True)
        except Exception as error:  # noqa: BLE001  as above
            untrainable = f"{_first_line(error)}{_place(error)}"

    graph = _verified(example, front_end, traces, partial(fx_parts, form), untrainable)
    if example.expected and not sizes_free:
        form.fix(fixed_sizes(example.model, through(graph.chain(_spread(graph, 1)), training=False), *example.inputs()))
    return graph


def _observed(capture: Capture, example: _Example, *, training: bool) -> FxTrace:
    model = example.model
    with undisturbed(model), attributes_kept(model):  # tracing does what a forward pass does without its inputs
        model.train(training)
        captured = capture(model, *example.inputs())
        return observed(captured, model, *example.inputs(), training=training)


def _recorded(example: _Example, front_end: str) -> Graph:
    modes = (False,) if example.untrainable else (False, True)
    recordings = {mode: record(example.model, example.args, example.kwargs, training=mode) for mode in modes}
    return _verified(example, front_end, recordings, _recorded_parts, example.untrainable)


def _recorded_parts(
    model: nn.Module, traces: Mapping[bool, Any], cuts: Mapping[bool, Sequence[Position]]
) -> list[nn.Module]:
    bounds = {training: [place.before for place in places] for training, places in cuts.items()}
    return recorded_parts(model, {training: [traces[training]] for training in cuts}, bounds)


def _verified(
    example: _Example, front_end: str, traces: Mapping[bool, Trace], make_parts: MakeParts, untrainable: str
) -> Graph:
    """A graph whose parts, at some cuts in a chain, were compared with the model."""
    graph = Graph(example.model, traces, make_parts, front_end=front_end, untrainable=untrainable)
    if not example.expected:
        return graph
    parts = graph.chain(_spread(graph, 3))
    require_equal(example.expected[False], _outcome(example, parts, training=False), "in evaluation")
    if untrainable:
        return graph
    try:
        parts = graph.chain(_spread(graph, 3, training=True))
        require_equal(example.expected[True], _outcome(example, parts, training=True), "in training")
    except (PartitionError, *FAILURES) as error:
        return Graph(
            example.model, {False: traces[False]}, make_parts, front_end=front_end, untrainable=_first_line(error)
        )
    return graph


def _outcome(example: _Example, parts: Sequence[nn.Module], *, training: bool) -> Outcome:
    run = through(parts, training=training)
    return outcome(example.model, run, example.args, example.kwargs, training=training)


def _spread(graph: Graph, count: int, *, training: bool = False) -> list[int]:
    """Indices of some points from the input to the output, of those that serve a mode."""
    points = [point.index for point in graph.points if not training or graph.in_training(point.index)]
    return sorted({points[len(points) * i // (count + 1)] for i in range(1, count + 1)})


_FRONT_ENDS: dict[str, Callable[[_Example, str], Graph]] = {
    "torch.fx": partial(_from_graphs, symbolic, True),
    "torch.export": partial(_from_graphs, exported, False),
    "recorder": _recorded,
}


def _on_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _place(error: Exception) -> str:
    """The line of the model that stops the trace: the last one outside torch and this package."""
    libraries = (Path(torch.__file__).parent, Path(__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not any(library in path.parents for library in libraries):
            return f" ({path}:{frame.lineno}: {frame.line})"
    return ""
