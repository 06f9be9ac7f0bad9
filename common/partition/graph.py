"""A traced model, its cut points, and the parts on each side of a cut.

The graph's nodes run in a fixed order, so a cut is a position in that order. What crosses it is the *live set*:
every value computed before it that is used behind it.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

import torch
import xxhash
from torch import Tensor, fx, nn

from common.errors import PartitionError
from common.partition.observe import Seen

Level = Literal["stage", "module", "operation"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class CutPoint:
    """A place to cut: the head computes all up to and with ``name``."""

    index: int
    name: str
    tensors: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    """(shape, dtype) of what crosses, at the example's batch size."""
    activation_bytes: int
    parameters_before: int
    """Number of parameters in the head."""
    level: Level
    """What ends here: a block of the model as `Graph.slices` has them (or the input), else a layer, else an operation
    between layers."""


@dataclass(frozen=True)
class _Position:
    """A cut point's place in the graph."""

    nodes_before: int
    live: tuple[fx.Node, ...]


class Graph:
    """A verified and observed trace. `points` go from 0 (all in the tail) to n (all in the head)."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        """The whole model as traced; its nodes run in their order."""
        *self._nodes, self._output = module.graph.nodes
        self._constants = self._find_constants()
        self._positions = self._find_positions()
        self.points = self._describe_points()

    @cached_property
    def digest(self) -> str:
        """Equal for two graphs that compute the same by parameters of the same shapes, cut by cut."""
        state = xxhash.xxh3_128()
        for node in self.module.graph.nodes:
            state.update(f"{node.op}|{node.name}|{_target(node)}|".encode())
            state.update(f"{node.args}|{node.kwargs}\n".encode())
            if node.op == "call_module":  # its settings, such as a stride
                state.update(f"{self.module.get_submodule(str(node.target))}\n".encode())
        for point in self.points:
            state.update(f"{point.name}|{[(shape[1:], dtype) for shape, dtype in point.tensors]}\n".encode())
        for name, value in self.module.state_dict().items():
            state.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        return state.hexdigest()

    def find(self, cut: int | str) -> CutPoint:
        """The point of an index, or of a name: of a node, or of a module (the point behind all of it).

        Raises:
            PartitionError: there is none; it names the nearest.
        """
        last = len(self.points) - 1
        if isinstance(cut, int):
            if not 0 <= cut <= last:
                raise PartitionError(f"there is no cut {cut}; cuts go from 0 to {last}")
            return self.points[cut]
        if cut not in self._names:
            close = get_close_matches(cut, self._names, n=5, cutoff=0.0)
            raise PartitionError(f"the model has no cut {cut!r}; the nearest are {', '.join(close)}")
        return self.points[self._names[cut]]

    def nodes_before(self, cut: int | str) -> int:
        """How many nodes of `module` run before the cut."""
        return self._positions[self.find(cut).index].nodes_before

    @property
    def blocks(self) -> int:
        """Number of the model's blocks: the most slices that it can be made into."""
        return len(self._block_ends)

    def slices(self, count: int) -> list[int]:
        """Indices of the points between ``count`` slices: ``[0, ..., n]``, ``count + 1`` of them.

        The natural slices of a model are its blocks: what is left when the model itself and its plain containers
        (`nn.Sequential` and the like) are opened. They are grouped into ``count`` slices of nearly equal number,
        as the paper does with its lists of layers.

        Raises:
            PartitionError: fewer blocks than slices.
        """
        ends = self._block_ends
        if not 1 <= count <= len(ends):
            raise PartitionError(f"the model has {len(ends)} blocks; it cannot be made into {count} slices")
        return [0, *(ends[len(ends) * i // count - 1] for i in range(1, count + 1))]

    def parts(self, cut: int | str) -> tuple[fx.GraphModule, fx.GraphModule]:
        """Head and tail: ``tail(*head(*inputs))`` is the model. Their parameters are the model's own, by name.

        Raises:
            PartitionError: no such cut, or a parameter that both sides would need.
        """
        head, tail = self.chain([cut])
        return head, tail

    def chain(self, cuts: Sequence[int | str]) -> list[fx.GraphModule]:
        """The parts between several cuts, one more than those: each takes what the one before it returns.

        What is computed early and used late goes through the parts between. Parameters are the model's own, by name.

        Raises:
            PartitionError: no such cut, cuts that do not ascend, or a parameter that two parts would need.
        """
        points = [self.find(cut) for cut in cuts]
        for before, behind in itertools.pairwise(points):
            if before.index >= behind.index:
                raise PartitionError(
                    f"cut {behind.name!r} ({behind.index}) does not come behind cut {before.name!r} ({before.index}); "
                    "the cuts of a chain go from the input to the output"
                )
        positions = [self._positions[point.index] for point in points]
        bodies = self._bodies([position.nodes_before for position in positions])
        inputs = [(), *(position.live for position in positions)]
        outputs = [*(position.live for position in positions), self._output.args[0]]
        names = ["Head", *(f"Middle{number}" for number in range(1, len(cuts))), "Tail"]
        parts = [self._part(*each) for each in zip(names, bodies, outputs, inputs, strict=False)]
        _refuse_shared(parts, points)
        return parts

    def gradients_wanted(self, cut: int | str) -> tuple[bool, ...]:
        """For each tensor that crosses: whether a trainable parameter of the head is behind it."""
        trained: set[fx.Node] = set()
        for node in self._nodes:
            has_trainable = any(each.requires_grad for each in self._own_parameters(node))
            if _seen(node).differentiable and (has_trainable or trained & set(node.all_input_nodes)):
                trained.add(node)
        return tuple(node in trained for node in self._positions[self.find(cut).index].live)

    def _bodies(self, bounds: Sequence[int]) -> list[list[fx.Node]]:
        """Nodes of each part between ``bounds``, in order. Constants do not cross: each part computes those it uses."""
        places: dict[fx.Node, set[int]] = {self._output: {len(bounds)}}
        for i, node in reversed(list(enumerate(self._nodes))):
            if node in self._constants and node.users:
                places[node] = set[int]().union(*(places[user] for user in node.users))
            else:
                places[node] = {bisect_right(bounds, i)}
        return [[node for node in self._nodes if part in places[node]] for part in range(len(bounds) + 1)]

    def _find_constants(self) -> set[fx.Node]:
        """Parameters, buffers, and what is computed from nothing else."""
        constants: set[fx.Node] = set()
        for node in self._nodes:
            if node.op != "placeholder" and constants.issuperset(node.all_input_nodes):
                constants.add(node)
        return constants

    def _find_positions(self) -> list[_Position]:
        """One behind the inputs and one behind each computing node, where what is alive can cross."""
        order = {node: i for i, node in enumerate([*self._nodes, self._output])}
        last_use = {node: max((order[user] for user in node.users), default=-1) for node in self._nodes}
        positions: list[_Position] = []
        alive: list[fx.Node] = []
        inputs = sum(node.op == "placeholder" for node in self._nodes)
        for i, node in enumerate(self._nodes, start=1):
            alive = [each for each in alive if last_use[each] >= i]
            if node in self._constants:
                continue
            if last_use[node] >= i:
                alive.append(node)
            if i >= inputs and self._can_cross(alive, self._nodes[i:]):
                positions.append(_Position(i, tuple(alive)))
        return positions

    def _can_cross(self, alive: Sequence[fx.Node], behind: Sequence[fx.Node]) -> bool:
        """Whether all are tensors, and none shares memory with another where that is still to be written to."""
        if any(_seen(node).tensor is None for node in alive):
            return False
        storages = [_seen(node).storage for node in alive]
        common = {each for each in storages if storages.count(each) > 1}
        return not common or not any(common & _seen(node).mutated for node in behind)

    def _describe_points(self) -> list[CutPoint]:
        points, seen, start = [], set[nn.Parameter](), 0
        stages = {0, *self._block_ends}
        for index, position in enumerate(self._positions):
            for node in self._nodes[start : position.nodes_before]:
                if node not in self._constants:
                    seen.update(self._own_parameters(node))
            start = position.nodes_before
            tensors = tuple(tensor for node in position.live if (tensor := _seen(node).tensor))
            nbytes = sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in tensors)
            last = self._nodes[position.nodes_before - 1]
            name = "input" if index == 0 else _point_name(last)
            level: Level = "stage" if index in stages else "module" if last.op == "call_module" else "operation"
            points.append(CutPoint(index, name, tensors, nbytes, sum(p.numel() for p in seen), level))
        return points

    def _own_parameters(self, node: fx.Node) -> list[nn.Parameter]:
        """Parameters that the node uses, those in the constants it takes included."""
        own = [p for each in node.all_input_nodes if each in self._constants for p in self._own_parameters(each)]
        if node.op == "call_module":
            return [*own, *self.module.get_submodule(str(node.target)).parameters()]
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            value = getattr(self.module.get_submodule(path), name)
            return [*own, value] if isinstance(value, nn.Parameter) else own
        return own

    @cached_property
    def _names(self) -> dict[str, int]:
        """Point behind each module and each node, by name; of a module called twice, behind its last call."""
        names: dict[str, int] = {"input": 0}
        for index, position in enumerate(self._positions[1:], start=1):
            node = self._nodes[position.nodes_before - 1]
            for path in [*_module_path(node), node.name]:
                names[path] = index
        return names

    @cached_property
    def _block_ends(self) -> list[int]:
        blocks: list[str | None] = []
        for position in self._positions[1:]:
            node = self._nodes[position.nodes_before - 1]
            # A function between two blocks belongs to the one before it.
            blocks.append(_block(node) or (blocks[-1] if blocks else None))
        runs = itertools.groupby(range(len(blocks)), key=blocks.__getitem__)
        return [max(run) + 1 for _, run in runs]

    def _part(self, name: str, body: Sequence[fx.Node], outputs: Any, inputs: Sequence[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in inputs}
        for node in body:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(fx.node.map_arg(outputs, copies.__getitem__))
        return fx.GraphModule(self.module, graph, name)


def _seen(node: fx.Node) -> Seen:
    seen: Seen = node.meta["seen"]
    return seen


def _module_path(node: fx.Node) -> list[str]:
    """Paths of the modules that the node runs in, outermost first."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


def _block(node: fx.Node) -> str | None:
    """Path of the outermost module around the node that is no plain container."""
    stack = node.meta.get("nn_module_stack", {}).values()
    return next((path for path, kind in stack if path and kind not in _CONTAINERS), None)


def _point_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _target(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else f"{node.target.__module__}.{node.target.__name__}"


def _refuse_shared(parts: Sequence[nn.Module], points: Sequence[CutPoint]) -> None:
    """Raises PartitionError where two parts have a parameter or buffer in common; ``points`` are between them."""
    for first, second in itertools.combinations(range(len(parts)), 2):
        if shared := _shared_names(parts[first], parts[second]):
            cuts = ", ".join(repr(point.name) for point in points[first:second])
            raise PartitionError(f"cut {cuts}: both sides use {', '.join(shared)}; cut elsewhere")


def _shared_names(head: nn.Module, tail: nn.Module) -> list[str]:
    """Names of the parameters and buffers that are in both, under whatever names (tied weights have two)."""
    sides = [_tensors(head), _tensors(tail)]
    both = {id(value) for value in sides[0].values()} & {id(value) for value in sides[1].values()}
    return sorted({name for side in sides for name, value in side.items() if id(value) in both})


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    return dict([*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False)])
