"""Record a model: one real forward pass, after which everything is as it was before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import nn

from common.errors import PartitionError
from common.partition.recording.calls import call_of
from common.partition.recording.inputs import fresh_copy, locals_of
from common.partition.recording.journey import packed
from common.partition.recording.mode import Recorder
from common.partition.recording.nested import tensors_in
from common.partition.recording.places import Places
from common.partition.recording.seams import SeamlessMode, seams_closed
from common.partition.recording.variant import Variant
from common.partition.steps import Leaf, Step

_PACKED = 32


class Recording:
    """A recorded run of a model in one mode. Satisfies `common.partition.steps.Trace`."""

    def __init__(
        self, model: nn.Module, training: bool, variant: Variant, values: Sequence[Any], local: dict[str, Any]
    ) -> None:
        self.training = training
        self.variant = variant
        self.steps: Sequence[Step] = variant.steps
        self.local = local
        """The arguments that do not cross, as they were before the run."""
        self._model = model
        self._values = list(values)

    def walk(self, args: Sequence[Any], kwargs: dict[str, Any], visit: Callable[[int], None]) -> Any:
        """Run the whole model; ``visit(i)`` is called when step ``i`` is done.

        Raises:
            PartitionError: with these arguments the model takes another way than in the recording.
        """
        args, kwargs = fresh_copy(args, kwargs)
        inputs = sum(1 for _ in tensors_in((args, kwargs)))
        with _as_it_was(self._model, self.training), seams_closed():
            for i in range(inputs):
                visit(i)
            with _Walker(self.variant, visit) as walker:
                outputs = self._model(*args, **kwargs)
        walker.finish()
        return outputs

    def on(self, model: nn.Module) -> "Recording":
        """The same over the weights of another model of the same structure."""
        return Recording(model, self.training, self.variant, self._values, self.local)

    def extras(self, position: int) -> tuple[Leaf, ...]:
        """The journey that crosses behind ``steps[:position]``. Its size is an estimate.

        It is the size that the recorded run's journey has at some call before: one in each 32nd of the run is packed,
        since packing takes as long as there are calls, and a graph asks at every point.
        """
        calls = self.variant.calls_before(position)
        return (Leaf((self._journey_bytes(calls - calls % -(-len(self.variant.calls) // _PACKED)),), torch.uint8),)

    @cache  # noqa: B019  lives as long as the recording, and so does what it holds
    def _journey_bytes(self, calls: int) -> int:
        values = self._values[: self.variant.values_before(calls)]
        return packed(self.variant.route("", self.variant.steps_before(calls)), (1 << 61) - 1, values).numel()


def record(model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], *, training: bool) -> Recording:
    """Record a forward pass.

    The model runs twice: what it computes on first use and keeps is no step. Its modes, its buffers and the state of
    random numbers are put back; the arguments are copied for each run, so caches among them stay as they are.

    Args:
        model: any module.
        args: positional arguments of an example.
        kwargs: named arguments of an example.
        training: in which mode to record. Only then with gradients.

    Raises:
        PartitionError: the model fails on the example, or makes tensors in ways that torch's calls do not show.
    """
    name = type(model).__name__
    with _as_it_was(model, training):
        try:
            first_args, first_kwargs = fresh_copy(args, kwargs)
            model(*first_args, **first_kwargs)
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise PartitionError(f"{name} fails on the example inputs: {_first_line(error)}") from error
    args, kwargs = fresh_copy(args, kwargs)
    local = deepcopy(locals_of(args, kwargs))
    places = Places(model)
    with _as_it_was(model, training), seams_closed(), places.watching():
        recorder = Recorder(model, places, args, kwargs)
        with recorder:
            outputs = model(*args, **kwargs)
        recorder.finish(outputs)
    variant = Variant(recorder.events, recorder.inputs, recorder.notes.entries, recorder.firsts)
    return Recording(model, training, variant, recorder.notes.values, local)


class _Walker(SeamlessMode):
    """Counts the steps of a run."""

    def __init__(self, variant: Variant, visit: Callable[[int], None]) -> None:
        super().__init__()
        self._variant, self._visit, self._call = variant, visit, 0
        self._bounds = [*variant.calls, len(variant.steps) - 1]

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        call = call_of(func)
        if not call.query and (
            self._call == len(self._variant.calls) or self._variant.entries[self._call][0] != call.code
        ):
            self._refuse(call.short)
        result = func(*args, **(kwargs or {}))
        if not call.query:
            self._call += 1
            for step in range(self._bounds[self._call - 1], self._bounds[self._call]):
                self._visit(step)
        return result

    def finish(self) -> None:
        if self._call != len(self._variant.calls):
            self._refuse("the output")
        self._visit(len(self._variant.steps) - 1)

    def _refuse(self, what: str) -> None:
        expected = self._variant.steps[self._bounds[self._call]].name
        raise PartitionError(f"the model took another way than in its recording: {what} instead of {expected}")


@contextmanager
def _as_it_was(model: nn.Module, training: bool) -> Iterator[None]:
    """Set a mode, and put back modes, buffers and the state of random numbers; all runs in here draw the same."""
    modes = [(each, each.training) for each in model.modules()]
    buffers = [
        (each, name, buffer, None if buffer is None else buffer.detach().clone())
        for each in model.modules()
        for name, buffer in each._buffers.items()
    ]
    devices = {each.device.index for each in model.parameters() if each.device.type == "cuda"}
    with torch.random.fork_rng(sorted(devices)), torch.set_grad_enabled(training):
        torch.manual_seed(0)
        try:
            model.train(training)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer
                    if buffer is not None and value is not None:
                        buffer.copy_(value)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
