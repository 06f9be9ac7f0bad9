"""Front end torch.export: runs the model's Python code on tensors without data, and writes down each ATen operation.

It follows code that torch.fx cannot, such as loops over lists of layers and branches on shapes. The mode, training or
evaluation, and the device are part of the graph; of the sizes, those of batches and of sequences of tokens stay free.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ShapesCollection
from torch.utils._pytree import tree_leaves

from common.partition.fx_trace import Captured
from common.partition.inputs import by_name, free_dimensions, tensor_leaves
from common.partition.sizes import run_at_another_size


def exported(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Captured:
    """Capture ``model`` in the mode that it is in. It may remember sizes of this run.

    Raises:
        Exception: whatever stops torch.export.
    """
    args, kwargs = tuple(args), by_name(kwargs)
    run_at_another_size(model, args, kwargs)
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for leaf, free in zip(tensor_leaves(args, kwargs), free_dimensions(args, kwargs), strict=True):
        if free:
            shapes[leaf] = dict.fromkeys(free, Dim.AUTO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts, and of what the model does while it is traced
        asked = shapes.dynamic_shapes(model, args, kwargs)  # type: ignore[no-untyped-call]
        program = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=asked)
        module = program.module(check_guards=False)
    return Captured(_plain(module, tree_leaves((args, kwargs))), program.call_spec.out_spec)


def _plain(module: nn.Module, leaves: Sequence[Any]) -> fx.GraphModule:
    """The graph with its inputs in front, and those that are no tensors as the values they have."""
    if not isinstance(module, fx.GraphModule):
        raise TypeError("torch.export gave no graph")
    graph = fx.Graph()
    given = [node for node in module.graph.nodes if node.op == "placeholder"]
    copies: dict[fx.Node, Any] = {}
    for node, leaf in zip(given, leaves, strict=True):
        copies[node] = graph.placeholder(node.name) if isinstance(leaf, Tensor) else leaf
    for node in module.graph.nodes:
        if node.op == "output":
            graph.output(tuple(fx.node.map_arg(node.args[0], copies.__getitem__)))
        elif node.op != "placeholder":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(module, graph, "Exported")
