"""Trace a model into a graph that can be cut, and verify the trace against the model."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from common.errors import PartitionError
from common.partition.graph import Graph
from common.partition.observe import observe


def trace(model: nn.Module, example_inputs: Sequence[Tensor]) -> Graph:
    """Trace ``model`` with torch.fx.

    Args:
        model: any module that torch.fx can follow; its parameters are shared with the graph, not copied.
        example_inputs: positional inputs of a batch (two samples or more where BatchNorm trains). The batch size
            stays free afterwards.

    Raises:
        PartitionError: the model cannot be traced (with the line that stops it), or its trace computes something
            else than the model.
    """
    name = type(model).__name__
    try:
        with _undisturbed(model):  # what a forward pass does without its inputs is done while tracing
            module = _trace(model)
    except Exception as error:
        raise PartitionError(
            f"{name} cannot be traced: {_first_line(error)}{_place(error)}; "
            "control flow that depends on tensor values has to move into a module of its own"
        ) from error
    try:
        with _undisturbed(model, module):
            module.eval()
            observe(module, example_inputs)
        for training in (False, True):
            _verify(model, module, example_inputs, training)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise PartitionError(f"{name} fails on the example inputs: {_first_line(error)}") from error
    return Graph(module)


def _trace(model: nn.Module) -> fx.GraphModule:
    known = set(vars(model))
    tracer = _Tracer()
    tracer.proxy_buffer_attributes = True  # else what is computed from buffers would be frozen
    try:
        return fx.GraphModule(model, tracer.trace(model), type(model).__name__)
    finally:
        # The tracer hangs tensors that the forward pass makes from nothing on the model; the trace has its own.
        for name in set(vars(model)) - known:
            delattr(model, name)


class _Tracer(fx.Tracer):
    """Keeps whole what would freeze its training flag if it were opened: torch's own modules, and stochastic depth."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = type(m).__module__ == "torchvision.ops.stochastic_depth"
        return own or super().is_leaf_module(m, module_qualified_name)


def _verify(model: nn.Module, traced: nn.Module, inputs: Sequence[Tensor], training: bool) -> None:
    """A forward pass must give the outputs and buffers of the model, bit for bit, and in training its gradients."""
    results = []
    for each in (model, traced):
        with _undisturbed(model, traced), torch.set_grad_enabled(training):
            model.train(training)
            torch.manual_seed(0)
            outputs = [
                leaf for leaf in tree_leaves(each(*(x.detach().clone() for x in inputs))) if isinstance(leaf, Tensor)
            ]
            buffers = [buffer.clone() for buffer in model.buffers()]
            gradients = _gradients(outputs, model) if training else []
            results.append(([leaf.detach() for leaf in outputs] + buffers, gradients))
    (values, gradients), (traced_values, traced_gradients) = results
    same = len(values) == len(traced_values) and all(map(_equal, values, traced_values))
    if not same or not all(map(_nearly_equal, gradients, traced_gradients)):
        mode = "training" if training else "evaluation"
        raise PartitionError(f"{type(model).__name__}: its trace differs from the model in {mode} mode")


def _gradients(outputs: Sequence[Tensor], model: nn.Module) -> list[Tensor | None]:
    """Gradients of all parameters, of a sum of the outputs with weights of all sizes; None where there is none."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    losses = [
        (each.flatten() * torch.linspace(-1, 1, each.numel(), dtype=each.dtype, device=each.device)).sum()
        for each in outputs
        if each.requires_grad
    ]
    if not parameters or not losses:
        return [None] * len(parameters)
    return list(torch.autograd.grad(losses, parameters, allow_unused=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.allclose(a, b, 0, 0, equal_nan=True))


def _nearly_equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal but for rounding: a sum over several uses may be taken in another order."""
    if a is None or b is None:
        return a is b
    size = float(a.abs().max()) if a.numel() else 0.0
    return bool(torch.allclose(a, b, 0, 1e-3 * size, equal_nan=True))


@contextmanager
def _undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Puts modes, buffers and torch's random state back as they were."""
    modes = [(each, each.training) for module in modules for each in module.modules()]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for each, training in modes:
                each.training = training
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _place(error: Exception) -> str:
    """The line of the model that stops the trace: the last one outside torch."""
    library, here = Path(torch.__file__).parent, Path(__file__)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path != here and library not in path.parents:
            return f" ({path}:{frame.lineno}: {frame.line})"
    return ""
