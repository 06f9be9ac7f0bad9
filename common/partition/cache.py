"""Graphs that were traced before, for models built in the same way: a server traces a model once, not once a session.

What decides how a model computes is in its key: classes, plain attributes, shapes, modes, and the form of the
example. A model with anything in it that cannot be compared (a large tensor that is no buffer, a hook, an open file)
has no key and is traced anew. Weights are not in the key, and the cache keeps none.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from common.partition.graph import Graph
from common.partition.inputs import by_name
from common.partition.steps import state_of, without_weights

_SIZE = 32
_FEW = 1 << 12
"""Elements of a plain tensor that are compared one by one, such as a detector's strides."""
_KEPT: OrderedDict[Hashable, Graph] = OrderedDict()
_LOCK = threading.Lock()
_REGISTERS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.memory_format, type)


def key_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Hashable | None:
    """What two models must have in common to have one graph; None where that cannot be told."""
    try:
        return (*_form(args, kwargs), *_structure(model))
    except TypeError:
        return None


def find(key: Hashable | None, model: nn.Module) -> Graph | None:
    """The graph of an earlier model of this key, over the weights of this one."""
    with _LOCK:
        graph = _KEPT.get(key) if key is not None else None
        if graph is not None:
            _KEPT.move_to_end(key)
    return graph.on(model) if graph is not None else None


def keep(key: Hashable | None, graph: Graph) -> None:
    """Keep a graph, without the weights of its model."""
    if key is None or not graph.front_end.startswith("torch."):  # a recording keeps its model
        return
    bare = graph.on(without_weights(graph.model))
    with _LOCK:
        _KEPT[key] = bare
        while len(_KEPT) > _SIZE:
            _KEPT.popitem(last=False)


def _form(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Hashable]:
    leaves, spec = tree_flatten((tuple(args), by_name(kwargs)))
    yield str(spec)
    yield torch.get_default_dtype()
    for leaf in leaves:
        yield (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else _plain(leaf)


def _structure(model: nn.Module) -> Iterator[Hashable]:
    for path, module in model.named_modules(remove_duplicate=False):
        yield path, id(type(module)), type(module)
        for name, value in vars(module).items():
            if name not in _REGISTERS:
                yield name, _plain(value)
        yield frozenset(module._non_persistent_buffers_set)
    seen: dict[int, int] = {}
    for name, value in state_of(model).items():
        tied = seen.setdefault(id(value), len(seen))
        yield (
            name,
            type(value),
            tuple(value.shape),
            value.stride(),
            value.dtype,
            value.device,
            value.requires_grad,
            tied,
        )


def _plain(value: Any) -> Hashable:
    """Something equal for equal values.

    Raises:
        TypeError: a value that cannot be compared.
    """
    kind = type(value)
    if isinstance(value, _PLAIN) or _is_free_function(value):
        return kind, value
    if kind is Tensor and value.numel() <= _FEW and value.layout is torch.strided and not value.is_meta:
        return kind, value.dtype, value.device, tuple(value.shape), tuple(value.flatten().tolist())
    if kind in (tuple, list, torch.Size):
        return kind, tuple(map(_plain, value))
    if kind in (dict, OrderedDict):
        return kind, tuple((_plain(name), _plain(each)) for name, each in value.items())
    if kind in (set, frozenset):
        return kind, frozenset(map(_plain, value))
    if kind is functools.partial:
        return kind, _plain(value.func), _plain(value.args), _plain(value.keywords)
    raise TypeError(f"{kind.__name__} cannot be compared")


def _is_free_function(value: Any) -> bool:
    """Whether all that a function computes from is its arguments, as far as can be seen."""
    if isinstance(value, FunctionType):
        return value.__closure__ is None
    return isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | None)
