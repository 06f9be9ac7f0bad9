"""Trace a model into a graph that can be cut, and verify the trace against the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils._pytree import tree_leaves

from common.errors import PartitionError
from common.partition.graph import Graph


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
    try:
        module = fx.GraphModule(model, fx.Tracer().trace(model), type(model).__name__)
    except Exception as error:
        raise PartitionError(
            f"{type(model).__name__} cannot be traced: {_first_line(error)}; "
            "control flow that depends on tensor values has to move into a module of its own"
        ) from error
    with _undisturbed(model):
        module.eval()
        with torch.no_grad():
            ShapeProp(module).propagate(*example_inputs)
    for training in (False, True):
        _verify(model, module, example_inputs, training)
    return Graph(module)


def _verify(model: nn.Module, traced: nn.Module, inputs: Sequence[Tensor], training: bool) -> None:
    """Outputs and buffers of one forward pass must be those of the model, bit for bit."""
    with _undisturbed(model), torch.no_grad():
        model.train(training)
        results = []
        for each in (model, traced):
            with torch.random.fork_rng(), _restored_buffers(model):
                torch.manual_seed(0)
                outputs = [leaf for leaf in tree_leaves(each(*inputs)) if isinstance(leaf, Tensor)]
                results.append([*outputs, *(buffer.clone() for buffer in model.buffers())])
        same = len(results[0]) == len(results[1]) and all(map(_equal, *results))
    if not same:
        mode = "training" if training else "evaluation"
        raise PartitionError(f"{type(model).__name__}: its trace differs from the model in {mode} mode")


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.allclose(a, b, 0, 0, equal_nan=True))


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts the mode of every submodule back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _restored_buffers(model: nn.Module) -> Iterator[None]:
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
