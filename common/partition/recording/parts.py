"""The parts of a recorded model, as modules of their own."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.inputs import by_name
from common.partition.recording.ghosts import Ghost
from common.partition.recording.hosts import Host
from common.partition.recording.inputs import noted
from common.partition.recording.journey import unpacked
from common.partition.recording.leaving import Leaving
from common.partition.recording.nested import reachable_tensors
from common.partition.recording.program import Given, Program
from common.partition.recording.replay import CutReached, Replay
from common.partition.recording.seams import seams_closed
from common.partition.recording.variant import Variant

_MOST_PROGRAMS = 4


@dataclass
class Way:
    """A part in one mode."""

    variants: tuple[Variant, ...]
    entering: str | None
    """Key of the cut before the part."""
    leaving: Leaving | None
    local: dict[str, Any]
    """Arguments of the recorded example that do not cross."""


class Part(nn.Module):
    """A part of a model. It holds its weights under the names that they have in the model.

    The first part takes what the model takes, each other what the one before gives; the last gives what the model
    gives, each other the tensors that cross and the journey behind them.

    An argument of the model that is neither made of tensors nor a plain value, such as a key-value cache, does not
    cross: each part has its own in ``local``, by its name or position (``"past_key_values"``, ``"1"``). Where there
    is none, every run begins with a copy of the recorded example's.
    """

    local: dict[str, Any]

    def __init__(self, model: nn.Module, owned: Sequence[str], ways: Mapping[bool, Way]) -> None:
        super().__init__()
        self.local = {}
        self._ways = dict(ways)
        self._programs: dict[tuple[bytes, int, torch.device], Program] = {}
        self._owned = {name: _hang(self, model, name) for name in owned}
        self._host = Host(model, set(owned))
        super().train(model.training)

    def train(self, mode: bool = True) -> "Part":
        """Set the mode of the model's code, too."""
        super().train(mode)
        self._host.model.train(mode)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        way = self._ways.get(self.training)
        if way is None:
            mode = "training" if self.training else "evaluation"
            raise PartitionError(f"this part was made without a recording in {mode} mode")
        store = {name: tensors[leaf] for name, (tensors, leaf) in self._owned.items()}
        device = next((each.device for each in store.values()), None) or _device_of(args)
        self._host.bind(store, device)
        run = Replay(self._host, way.variants, device.type == "cpu")
        if way.entering is not None:
            args, kwargs = self._enter(run, way, args, device)
        else:
            own = {key: each for key, each in self.local.items() if key in way.local and key.isidentifier()}
            kwargs = by_name({**own, **kwargs})  # a run is like a recorded one in whatever order its caller names them
        with ExitStack() as stack:
            if way.leaving is not None:
                run.stop(way.leaving, noted(args, kwargs, run.notes))
                stack.enter_context(self._host.places.watching())
            return self._run(run, args, kwargs)

    def _enter(
        self, run: Replay, way: Way, args: Sequence[Any], device: torch.device
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read what crossed, and make the arguments of the model from it."""
        *tensors, last = args or (None,)
        journey = unpacked(last)
        key = (journey.route, len(tensors), device)
        program = self._programs.get(key)
        if program is None:
            program = Program(journey.route, way.entering or "", len(tensors), device)
            if program.reusable:
                while len(self._programs) >= _MOST_PROGRAMS:
                    del self._programs[next(iter(self._programs))]
                self._programs[key] = program
        run.skip(program, Given(program, tensors, journey.numbers, journey.values), tensors)

        def local(name: str) -> Any:
            if name in self.local:
                return self.local[name]
            if name not in way.local:
                raise PartitionError(f"the argument {name} does not cross, and this part has none of its own")
            return deepcopy(way.local[name])

        return program.arguments(tensors, local)

    def _run(self, run: Replay, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        outputs = None
        try:
            with seams_closed(), run:
                outputs = self._host.model(*args, **kwargs)
            run.finish()
        except CutReached:
            pass
        finally:
            for name, tensor in self._host.replaced().items():
                tensors, leaf = self._owned[name]
                tensors[leaf] = tensor
        if run.leaving:
            return run.parcel
        for each in reachable_tensors(outputs, {id(each) for each in (*args, *kwargs.values())}):
            if type(each) is Ghost:
                raise PartitionError(
                    "the model returns a tensor that did not cross the cut; record it with such inputs"
                )
        return outputs


def _hang(part: nn.Module, model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Give a part a parameter or buffer of the model, under its name there; returns where it is stored."""
    path, _, leaf = name.rpartition(".")
    module: nn.Module = part
    for each in path.split(".") if path else ():
        # Not by add_module, which refuses names that a module has anyway, such as "train".
        module = module._modules.setdefault(each, nn.Module()) or module
    source = model.get_submodule(path)
    if leaf in source._parameters:
        module._parameters[leaf] = source._parameters[leaf]
        return module._parameters, leaf
    module._buffers[leaf] = source._buffers[leaf]
    if leaf in source._non_persistent_buffers_set:
        module._non_persistent_buffers_set.add(leaf)
    return module._buffers, leaf


def _device_of(values: Sequence[Any]) -> torch.device:
    return next((each.device for each in values if isinstance(each, Tensor)), torch.device("cpu"))
