"""A graph of torch.fx as the steps of a trace, seen by running it once."""

import operator
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from common.partition.inputs import tensor_leaves
from common.partition.steps import Kind, Leaf, Memory, Step, state_of
from common.partition.template import NumberLeaf, Template, leaves_of, template_of


@dataclass(frozen=True)
class Captured:
    """What a front end makes of a model in one mode."""

    module: fx.GraphModule
    """Placeholders are the tensors of the inputs, in order; the output is a tuple of the leaves of the model's."""
    output_spec: TreeSpec


@dataclass
class FxTrace:
    """A captured graph that was run on the example."""

    captured: Captured
    nodes: list[fx.Node]
    """One for each step."""
    templates: list[Template | None]
    """How the value of each node crosses; None where it cannot."""
    steps: Sequence[Step] = field(default_factory=list)

    def walk(self, args: Sequence[Any], kwargs: dict[str, Any], visit: Callable[[int], None]) -> Any:
        """Run the whole graph, with ``visit(i)`` behind step ``i``."""
        order = {node: i for i, node in enumerate(self.nodes)}
        leaves = _Walker(self.captured.module, lambda node: visit(order[node])).run(*tensor_leaves(args, kwargs))
        return tree_unflatten(leaves, self.captured.output_spec)

    def extras(self, position: int) -> tuple[Leaf, ...]:
        """Nothing but the live set crosses."""
        return ()

    def on(self, model: nn.Module) -> "FxTrace":
        """The same nodes over the weights of another model."""
        graph = self.captured.module.graph
        targets = {str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")}
        own = self.captured.module
        root = {target: attrgetter(target)(model if _has(model, target) else own) for target in targets}
        module = fx.GraphModule(root, graph)
        graph.owning_module = None  # several have it, and none should be kept for it
        return replace(self, captured=replace(self.captured, module=module))


def observed(
    captured: Captured, model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], *, training: bool
) -> FxTrace:
    """Run ``captured`` on the example and describe its steps. Buffers and random state change as in any run.

    Args:
        captured: the graph; its nodes may be put into another order of the same meaning.
        model: of which it is.
        args: positional inputs, of the example.
        kwargs: inputs by name.
        training: in which mode the example runs.
    """
    module = captured.module
    _name_own(module, model, "training" if training else "evaluation")
    observer = _Observer(module)
    inputs = tensor_leaves(args, kwargs)
    # Clones of leaves: in-place operations may write to them, and all that depends on them has a gradient.
    leaves = [each.detach().requires_grad_(each.is_floating_point()) for each in inputs]
    with torch.enable_grad():
        observer.run(*(each.clone() for each in leaves))
    unpacking = _unpack_at_once(module.graph, observer.values)
    nodes = list(module.graph.nodes)
    templates = [template_of(observer.values[node]) if node.op != "output" else None for node in nodes]
    return FxTrace(captured, nodes, templates, _steps(module, nodes, templates, observer, unpacking))


def _name_own(module: fx.GraphModule, model: nn.Module, mode: str) -> None:
    """Give tensors that the graph has of its own names that the model and its graph in the other mode do not have."""
    for i, node in enumerate(module.graph.nodes):
        target = str(node.target)
        if node.op == "get_attr" and not _has(model, target):
            node.target = f"_{mode}_{i}"
            setattr(module, node.target, attrgetter(target)(module))


def _has(model: nn.Module, target: str) -> bool:
    try:
        attrgetter(target)(model)
    except AttributeError:
        return False
    return True


class _Walker(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, visit: Callable[[fx.Node], None]) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self._visit = visit

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._visit(n)
        return value


class _Observer(fx.Interpreter):
    """Keeps every value until the end, so that equal storages are the same storage."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.extra_traceback = False
        self.values: dict[fx.Node, Any] = {}
        self.writes: dict[fx.Node, frozenset[int]] = {}
        self._buffers = set(map(id, module.buffers()))
        self.fixed: set[fx.Node] = set()
        """Nodes computed from parameters, buffers and literals alone, that took nothing from a random generator."""

    def run_node(self, n: fx.Node) -> Any:
        before = [each for taken in n.all_input_nodes for each in _tensors(self.env[taken])]
        if n.op == "call_module":
            before += self.module.get_submodule(str(n.target)).buffers()
        marks = [self._mark(each) for each in before]
        fixed = n.op.startswith(("call_f", "call_me")) and self.fixed.issuperset(n.all_input_nodes)
        state = torch.get_rng_state() if fixed else None
        value = super().run_node(n)
        self.values[n] = value
        self.writes[n] = frozenset(
            _storage(each)
            for each, (version, content) in zip(before, marks, strict=True)
            if each._version != version or (content is not None and not torch.equal(content, each))
        )
        if n.op == "get_attr" or (state is not None and torch.equal(state, torch.get_rng_state())):
            self.fixed.add(n)
        return value

    def _mark(self, tensor: Tensor) -> tuple[int, Tensor | None]:
        """What tells a later write to a tensor: its version, or of a buffer the content, as BatchNorm raises none."""
        return tensor._version, tensor.clone() if id(tensor) in self._buffers and not tensor.is_meta else None


def _steps(
    module: fx.GraphModule,
    nodes: Sequence[fx.Node],
    templates: Sequence[Template | None],
    observer: _Observer,
    unpacking: Container[fx.Node],
) -> list[Step]:
    order = {node: i for i, node in enumerate(nodes)}
    constants = _constants(nodes, observer)
    names = list(state_of(module))
    kinds: dict[str, Kind] = {"placeholder": "input", "output": "output"}
    steps = []
    for node, template in zip(nodes, templates, strict=True):
        value = observer.values[node]
        steps.append(
            Step(
                name=node.name,
                kind=kinds.get(node.op, "operation"),
                label=_label(module, node),
                modules=tuple(_module_path(node)),
                layer=str(node.target) if node.op == "call_module" else "",
                takes=tuple(order[each] for each in node.all_input_nodes),
                state=_own_state(node, names),
                leaves=tuple(_leaves(value, template)) if template else (),
                crosses=template is not None,
                writes=observer.writes[node],
                continues=node in unpacking,
                constant=node in constants,
            )
        )
    return steps


def _unpack_at_once(graph: fx.Graph, values: dict[fx.Node, Any]) -> set[fx.Node]:
    """Move what takes an item out of a tuple right behind what made it: its items cross a cut, not all of it."""
    unpacking = set[fx.Node]()
    for node in list(graph.nodes):
        if not isinstance(values[node], tuple | list):
            continue
        for user in reversed(list(node.users)):
            if user.target is operator.getitem and isinstance(user.args[1], int):
                node.append(user)
                unpacking.add(user)
    return unpacking


def _constants(nodes: Sequence[fx.Node], observer: _Observer) -> set[fx.Node]:
    """Parameters, buffers, and what is computed from nothing else and never written to."""
    written = frozenset[int]().union(*observer.writes.values())
    constants: set[fx.Node] = set()
    for node in nodes:
        if node not in observer.fixed or not constants.issuperset(node.all_input_nodes):
            continue
        made = {_storage(each) for each in _tensors(observer.values[node])}
        if node.op == "get_attr" or not (observer.writes[node] or made & written):
            constants.add(node)
    return constants


def _leaves(value: Any, template: Template) -> Iterator[Leaf]:
    numbers = isinstance(template, NumberLeaf)
    for each in leaves_of(value, template):
        plain = numbers or each.layout is not torch.strided
        memory = None if plain else Memory(_storage(each), int(each.storage_offset()), each.stride())
        yield Leaf(tuple(each.shape), each.dtype, memory, each.requires_grad)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else id(tensor)


def _own_state(node: fx.Node, names: Sequence[str]) -> tuple[str, ...]:
    target = str(node.target)
    if node.op == "get_attr":
        return (target,)
    if node.op == "call_module":
        return tuple(name for name in names if name.startswith(f"{target}."))
    return ()


def _label(module: fx.GraphModule, node: fx.Node) -> str:
    """Operation and literal arguments, with a mark for each value of another node."""
    if node.op in ("placeholder", "output"):
        return node.op
    literals = fx.node.map_arg((node.args, node.kwargs), lambda _: "%")
    what: Any = node.target
    if node.op == "call_module":  # with its settings, such as a stride
        what = f"{node.target} {_described(module.get_submodule(str(node.target)))}"
    elif not isinstance(what, str):
        what = f"{what.__module__}.{getattr(what, '__name__', type(what).__name__)}"
    return f"{node.op} {what} {literals}"


def _described(module: nn.Module) -> str:
    return f"{type(module).__module__}.{module}"


def _module_path(node: fx.Node) -> list[str]:
    """Paths of the modules that the node runs in, outermost first; second calls are told from first by ``@``."""
    stack = node.meta.get("nn_module_stack") or {}
    return [path.split("@")[0] for path, _ in stack.values() if path]
