"""The parts of a model between cuts, from graphs of torch.fx: one for each mode, over the same weights."""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from common.errors import PartitionError
from common.partition.fx_trace import FxTrace
from common.partition.inputs import InputForm
from common.partition.liveness import Position
from common.partition.steps import Step, state_of
from common.partition.template import PLAIN, Template, leaves_of, restore

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Body:
    """What a part computes in one mode."""

    graph: fx.Graph
    forward: Callable[..., tuple[Any, ...]]
    """Of the graph: takes the part, what it has under `targets`, and the live values; returns what is alive behind."""
    targets: tuple[str, ...]
    """Layers and weights that the graph uses, by name."""
    inlet: InputForm | tuple[Template, ...]
    """The model's inputs; or how live values are made of what crosses."""
    outlet: TreeSpec | tuple[Template, ...]
    """The model's outputs; or how live values cross."""
    device: torch.device | None
    """Where the graph makes tensors, in so many words; None where it follows its inputs."""

    @cached_property
    def plain_inlet(self) -> int:
        """Number of tensors that cross where they are all that does, else -1."""
        return len(self.inlet) if isinstance(self.inlet, tuple) and _all_plain(self.inlet) else -1

    @cached_property
    def plain_outlet(self) -> bool:
        """Whether tensors are all that crosses."""
        return isinstance(self.outlet, tuple) and _all_plain(self.outlet)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Body":
        """Itself: nothing in it ever changes, and it holds no weights."""
        return self


class Part(nn.Module):
    """A part of a model. Names and objects of its parameters and buffers are the model's own.

    It takes what the part before it returned (the first: the model's inputs), and returns a tuple of tensors (the
    last: the model's outputs). Numbers cross as 0-d tensors.
    """

    def __init__(self, bodies: Mapping[bool, Body]) -> None:
        super().__init__()
        self._bodies = dict(bodies)
        self._places: dict[bool, list[tuple[dict[str, Any], str]]] = {}
        """By mode, where the targets are: looked up by their whole names in each pass, they would cost a percent."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What is alive behind the part, or the model's outputs.

        Raises:
            PartitionError: inputs of another form than the example's, or a mode that the model was not traced in.
        """
        body = self._bodies.get(self.training)
        if body is None:
            raise PartitionError("this part serves evaluation only: the model's trace in training mode failed")
        if isinstance(body.inlet, InputForm):
            values: Sequence[Any] = body.inlet.leaves(args, kwargs)
        else:
            values = args if body.plain_inlet == len(args) else _restored(body.inlet, args)
        places = self._places.get(self.training)
        if places is None:
            places = self._places[self.training] = [_place_of(self, target) for target in body.targets]
        results = body.forward(self, *[names[name] for names, name in places], *values)
        if isinstance(body.outlet, TreeSpec):
            return tree_unflatten(results, body.outlet)
        if body.plain_outlet:
            return results
        return tuple(leaf for each in zip(results, body.outlet, strict=True) for leaf in leaves_of(*each))

    def _apply(self, fn: Any, recurse: bool = True) -> "Part":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for training, body in self._bodies.items():
            if body.device is None:
                continue
            device = fn(torch.empty(0, device=body.device)).device
            if device != body.device:
                self._bodies[training] = _moved(body, device)
        return self


def fx_parts(
    form: InputForm, model: nn.Module, traces: Mapping[bool, Any], cuts: Mapping[bool, Sequence[Position]]
) -> list[Part]:
    """The parts between cuts. What nothing uses of the model's parameters and buffers is in the last.

    Args:
        form: of the model's inputs.
        model: whose names the parts have.
        traces: `FxTrace` by mode.
        cuts: by mode, as many in each; the parts serve these modes.
    """
    bodies = {training: _bodies(traces[training], places, form) for training, places in cuts.items()}
    saved = set(model.state_dict(keep_vars=True))
    parts: list[Part] = []
    for number in range(len(cuts[False]) + 1):
        part = Part({training: each[number] for training, each in bodies.items()})
        for training in cuts:
            own = traces[training].captured.module
            for target in part._bodies[training].targets:
                _adopt(part, target, model, own, saved)
        parts.append(part)
    used = set[str]().union(*(state_of(part) for part in parts))
    for name in state_of(model).keys() - used:
        _adopt(parts[-1], name, model, model, saved)
    return parts


def owners(steps: Sequence[Step], bounds: Sequence[int]) -> list[set[int]]:
    """For each step, the parts that compute it: a constant is computed in all that use it.

    Args:
        steps: of a trace, the output last.
        bounds: how many steps run before each cut.
    """
    places = [set[int]() for _ in steps]
    for i in range(len(steps) - 1, -1, -1):
        if not (steps[i].constant and places[i]):
            places[i] = {bisect_right(bounds, i)}
        for taken in steps[i].takes:
            if steps[taken].constant:
                places[taken] |= places[i]
    return places


def _bodies(trace: FxTrace, cuts: Sequence[Position], form: InputForm) -> list[Body]:
    places = owners(trace.steps, [cut.before for cut in cuts])
    bodies = []
    for number in range(len(cuts) + 1):
        nodes = [node for node, where in zip(trace.nodes, places, strict=True) if number in where]
        first, last = number == 0, number == len(cuts)
        arriving = () if first else cuts[number - 1].live
        leaving = () if last else cuts[number].live
        graph, targets = _cut_out(
            nodes,
            [trace.nodes[i] for i in arriving],
            trace.nodes[-1].args[0] if last else tuple(trace.nodes[i] for i in leaving),
        )
        bodies.append(
            Body(
                graph,
                _compiled(graph),
                targets,
                form if first else _templates(trace, arriving),
                trace.captured.output_spec if last else _templates(trace, leaving),
                next(_devices(graph), None),
            )
        )
    return bodies


def _templates(trace: FxTrace, live: Sequence[int]) -> tuple[Template, ...]:
    return tuple(template for i in live if (template := trace.templates[i]) is not None)


def _cut_out(nodes: Sequence[fx.Node], arriving: Sequence[fx.Node], leaving: Any) -> tuple[fx.Graph, tuple[str, ...]]:
    """A graph of some nodes; the layers and weights that they use are its first inputs, and named beside it."""
    graph = fx.Graph()
    named = [str(node.target) for node in nodes if node.op in ("get_attr", "call_module")]
    held = {target: graph.placeholder(f"own_{i}") for i, target in enumerate(dict.fromkeys(named))}
    copies = {node: graph.placeholder(node.name) for node in arriving}
    for node in nodes:
        if node.op == "get_attr":
            copies[node] = held[str(node.target)]
        elif node.op == "call_module":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), copies.__getitem__)
            copies[node] = graph.call_method("__call__", (held[str(node.target)], *args), kwargs)
        elif node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.node.map_arg(leaving, copies.__getitem__))
    return graph, tuple(held)


def _compiled(graph: fx.Graph) -> Callable[..., tuple[Any, ...]]:
    forward: Callable[..., tuple[Any, ...]] = type(fx.GraphModule(nn.Module(), graph)).forward
    graph.owning_module = None
    return forward


def _place_of(part: nn.Module, target: str) -> tuple[dict[str, Any], str]:
    """The register of a module that holds a layer or a weight, and its name there."""
    path, _, name = target.rpartition(".")
    owner = part.get_submodule(path)
    for register in (owner._modules, owner._parameters, owner._buffers):
        if name in register:
            return register, name
    return vars(owner), name


def _restored(templates: Sequence[Template], leaves: Sequence[Any]) -> Sequence[Any]:
    if _all_plain(templates):
        raise PartitionError(f"{len(leaves)} tensors came across the cut; {len(templates)} are alive there")
    device = next((each.device for each in leaves if isinstance(each, Tensor) and each.dim()), _CPU)
    coming = iter(leaves)
    try:
        return [restore(template, coming, device) for template in templates]
    except StopIteration:
        raise PartitionError(f"{len(leaves)} tensors came across the cut; more are alive there") from None


def _all_plain(templates: Sequence[Template]) -> bool:
    return all(template is PLAIN for template in templates)


def _adopt(part: nn.Module, target: str, model: nn.Module, own: nn.Module, saved: Container[str]) -> None:
    """Give ``part`` what the model has under a name, or else the graph of its own."""
    *path, name = target.split(".")
    holder: Any = part
    for depth, step in enumerate(path, start=1):
        if not hasattr(holder, step):
            setattr(holder, step, nn.Module())
        holder = getattr(holder, step)
        if holder is _found(model, path[:depth]):
            return  # it has the whole module already
    if hasattr(holder, name):
        return
    value = _found(model, [*path, name])
    value = _found(own, [*path, name]) if value is None else value
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        holder.register_buffer(name, value, persistent=target in saved)
    else:
        setattr(holder, name, value)


def _found(root: Any, path: Sequence[str]) -> Any:
    for step in path:
        root = getattr(root, step, None)
    return root


def _devices(graph: fx.Graph) -> Iterator[torch.device]:
    for node in graph.nodes:
        for each in [*node.args, *node.kwargs.values()]:
            if isinstance(each, torch.device):
                yield each


def _moved(body: Body, device: torch.device) -> Body:
    """The body with its tensors made on another device."""

    def there(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    graph = fx.Graph()
    graph.output(graph.graph_copy(body.graph, {}))
    for node in graph.nodes:
        node.args = tuple(map(there, node.args))
        node.kwargs = {name: there(value) for name, value in node.kwargs.items()}
    return replace(body, graph=graph, forward=_compiled(graph), device=device)
