"""A traced model and its cut points.

A cut is a place between two steps of the forward pass. What crosses it is the *live set*: every value computed before
it that is used behind it.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeAlias

import xxhash
from torch import nn

from common.errors import PartitionError
from common.partition.align import aligned
from common.partition.liveness import Position, overlap, positions
from common.partition.points import CutPoint, block_ends, describe, names_of
from common.partition.steps import Leaf, Trace, state_of, state_used, without_weights

MakeParts: TypeAlias = Callable[
    [nn.Module, Mapping[bool, Trace], Mapping[bool, Sequence[Position]]], Sequence[nn.Module]
]
"""Of a model and its traces, between positions by mode."""


class Graph:
    """A verified trace. `points` go from 0 (all in the tail) to n (all in the head).

    Args:
        model: what was traced.
        traces: by mode (training or not); without one for training the graph serves inference only.
        make_parts: builds the parts between positions of the traces.
        front_end: which of the front ends served.
        untrainable: why the graph serves inference only; empty where it serves training.
    """

    def __init__(
        self,
        model: nn.Module,
        traces: Mapping[bool, Trace],
        make_parts: MakeParts,
        *,
        front_end: str,
        untrainable: str = "",
    ) -> None:
        self.model = model
        self.front_end = front_end
        self.untrainable = untrainable
        self.report: tuple[str, ...] = ()
        """Why other front ends were refused before this one."""
        self._traces = dict(traces)
        self._make_parts = make_parts
        self._steps = traces[False].steps
        self._positions = list(positions(self._steps))
        self._training = self._align()
        self.points = describe(model, traces, self._positions, self._training, untrainable)

    @property
    def data_dependent(self) -> bool:
        """Whether what crosses is up to the data, too: the model's own code decides anew in each pass."""
        return self.front_end == "recorder"

    @cached_property
    def digest(self) -> str:
        """Equal for two graphs that compute the same by parameters of the same shapes, cut by cut."""
        state = xxhash.xxh3_128()
        for training, trace in sorted(self._traces.items()):
            state.update(f"{self.front_end}|{training}\n".encode())
            for step in trace.steps:
                state.update(f"{step.name}|{step.label}|{step.takes}|{step.state}\n".encode())
        for point in self.points:
            state.update(f"{point.name}|{[(shape[1:], dtype) for shape, dtype in point.tensors]}\n".encode())
        for name, value in self.model.state_dict().items():
            state.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        return state.hexdigest()

    def find(self, cut: int | str) -> CutPoint:
        """The point of an index, or of a name: of a step, or of a module (the point behind all of it).

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

    def steps_before(self, cut: int | str) -> int:
        """How many steps run before the cut, in evaluation."""
        return self._positions[self.find(cut).index].before

    def walk(self, args: Sequence[Any], kwargs: dict[str, Any], visit: Callable[[int], None]) -> Any:
        """Run the whole model in evaluation; ``visit(i)`` is called when ``i + 1`` steps are done."""
        return self._traces[False].walk(args, kwargs, visit)

    @property
    def blocks(self) -> int:
        """Number of the model's blocks: the most slices that it can be made into."""
        return len(self._block_ends)

    def slices(self, count: int) -> list[int]:
        """Indices of the points between ``count`` slices: ``[0, ..., n]``, ``count + 1`` of them.

        The natural slices of a model are its blocks (`Blocks`). They are grouped into ``count`` slices of nearly
        equal number, as the paper does with its lists of layers.

        Raises:
            PartitionError: fewer blocks than slices.
        """
        ends = self._block_ends
        if not 1 <= count <= len(ends):
            raise PartitionError(f"the model has {len(ends)} blocks; it cannot be made into {count} slices")
        return [0, *(ends[len(ends) * i // count - 1] for i in range(1, count + 1))]

    def parts(self, cut: int | str) -> tuple[nn.Module, nn.Module]:
        """Head and tail: ``tail(*head(*inputs))`` is the model. Their parameters are the model's own, by name.

        Weights that both sides use are in both: `CutPoint.unsafe` says where. That serves inference.

        Raises:
            PartitionError: no such cut.
        """
        head, tail = self.chain([cut])
        return head, tail

    def chain(self, cuts: Sequence[int | str]) -> list[nn.Module]:
        """The parts between several cuts, one more than those: each takes what the one before it returns.

        What is computed early and used late goes through the parts between. Parameters are the model's own, by name.

        Raises:
            PartitionError: no such cut, or cuts that do not ascend.
        """
        points = [self.find(cut) for cut in cuts]
        for before, behind in itertools.pairwise(points):
            if before.index >= behind.index:
                raise PartitionError(
                    f"cut {behind.name!r} ({behind.index}) does not come behind cut {before.name!r} ({before.index}); "
                    "the cuts of a chain go from the input to the output"
                )
        chosen = {False: [self._positions[point.index] for point in points]}
        in_training = [place for point in points if (place := self._training[point.index])]
        if len(in_training) == len(points) and True in self._traces:
            chosen[True] = in_training
        return list(self._make_parts(self.model, self._traces, chosen))

    def require_trainable(self, cut: int | str) -> None:
        """Refuse a cut where training would be wrong.

        Raises:
            PartitionError: with the reason, and the nearest cuts where training is right.
        """
        point = self.find(cut)
        if not point.unsafe:
            return
        safe = sorted((each for each in self.points if not each.unsafe), key=lambda p: abs(p.index - point.index))
        nearest = ", ".join(f"{each.name!r} ({each.index})" for each in sorted(safe[:2], key=lambda p: p.index))
        way_out = f"the nearest cuts for training are {nearest}" if safe else "no cut of it can be trained"
        raise PartitionError(f"cut {point.name!r} ({point.index}): {point.unsafe}; {way_out}")

    def in_training(self, cut: int | str) -> bool:
        """Whether the parts at a cut run in training mode too; where they do, it may still be unsafe to train them."""
        return self._training[self.find(cut).index] is not None

    def crossing(self, cut: int | str, *, training: bool) -> tuple[Leaf, ...]:
        """What crosses a cut in a mode: as `CutPoint.tensors` says, which is of evaluation, and more of each.

        Raises:
            PartitionError: no such cut, or none in this mode.
        """
        point = self.find(cut)
        place = self._training[point.index] if training else self._positions[point.index]
        if place is None:
            raise PartitionError(f"cut {point.name!r} ({point.index}) does not serve training: {point.unsafe}")
        return (*place.leaves, *self._traces[training].extras(place.before))

    def groups(self, cut: int | str, *, training: bool) -> tuple[tuple[int, ...], ...]:
        """Which of the tensors that cross have memory in common: indices, for each such piece of memory."""
        leaves = self.crossing(cut, training=training)
        found: list[list[int]] = []
        for i, leaf in enumerate(leaves):
            mine = [group for group in found if any(overlap(leaves[j], leaf) for j in group)]
            found = [group for group in found if group not in mine] + [[*itertools.chain(*mine), i]]
        return tuple(tuple(sorted(group)) for group in found if len(group) > 1)

    def gradients_wanted(self, cut: int | str) -> tuple[bool, ...]:
        """For each tensor that crosses: whether a trainable parameter of the head is behind it."""
        point = self.find(cut)
        place = self._training[point.index] or self._positions[point.index]
        trace = self._traces.get(True, self._traces[False])
        state = state_of(self.model)
        trained: set[int] = set()
        for i, step in enumerate(trace.steps[: place.before]):
            own = any(state[name].requires_grad for name in state_used(trace.steps, i) if name in state)
            if any(leaf.differentiable for leaf in step.leaves) and (own or not trained.isdisjoint(step.takes)):
                trained.add(i)
        # Where no input asked for a gradient, what asks for one has a parameter behind it.
        sure = not any(leaf.differentiable for step in trace.steps if step.kind == "input" for leaf in step.leaves)
        wanted = [leaf.differentiable and (sure or i in trained) for i in place.live for leaf in trace.steps[i].leaves]
        return (*wanted, *(False for _ in trace.extras(place.before)))

    def on(self, model: nn.Module) -> "Graph":
        """The same graph over the weights of another model of the same structure."""
        other = copy.copy(self)
        other._put_on(model)
        return other

    def forget_weights(self) -> None:
        """Leave the model's memory to the parts that were made; parts made from now on are on the meta device."""
        self._put_on(without_weights(self.model))

    def _put_on(self, model: nn.Module) -> None:
        self.model = model
        self._traces = {training: trace.on(model) for training, trace in self._traces.items()}

    def _align(self) -> list[Position | None]:
        """For each position, the one at the same place in training."""
        if True not in self._traces:
            return [None] * len(self._positions)
        others = self._traces[True].steps
        return aligned(self._steps, self._positions, others, list(positions(others)))

    @cached_property
    def _names(self) -> dict[str, int]:
        return names_of(self._steps, self._positions)

    @cached_property
    def _block_ends(self) -> list[int]:
        return block_ends(self.model, self._steps, self._positions)
