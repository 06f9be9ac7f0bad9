"""Front end torch.fx: follows the model's Python code with stand-ins for tensors.

The graph has the model's own layers as single steps, and works for all batch sizes and on any device.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map

from common.partition.fx_trace import Captured
from common.partition.inputs import by_name


def symbolic(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Captured:
    """Capture ``model`` in the mode that it is in.

    Raises:
        Exception: whatever stops torch.fx.
    """
    tracer = _Tracer(model, args, kwargs)
    known = set(vars(model))
    try:
        graph = tracer.trace(model)
        module = fx.GraphModule(model, graph, type(model).__name__)
    finally:
        # The tracer hangs tensors that the forward pass makes from nothing on the model; the trace has its own.
        for name in set(vars(model)) - known:
            delattr(model, name)
    return Captured(module, tracer.output_spec)


class _Tracer(fx.Tracer):
    """Takes the example's nesting and plain values for granted; tensors only are stand-ins."""

    output_spec: TreeSpec

    def __init__(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        leaf_types, functions = _of_timm(model)
        super().__init__(autowrap_functions=functions, param_shapes_constant=True)
        self.proxy_buffer_attributes = True  # else what is computed from buffers would be frozen
        self._leaf_types = leaf_types
        self._inputs = (tuple(args), by_name(kwargs))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Kept whole: what would freeze its training flag if it were opened, and what its library says must be."""
        own = type(m).__module__ == "torchvision.ops.stochastic_depth" or isinstance(m, self._leaf_types)
        return own or super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Shapes of parameters are constants; torch.fx fails where it treats those of buffers alike."""
        self.param_shapes_constant = isinstance(attr_val, nn.Parameter)
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """A stand-in for each tensor of the inputs, wherever it is nested."""
        names = (f"input_{i}" for i in range(sys.maxsize))

        def stand_in(value: Any) -> Any:
            return self.create_proxy("placeholder", next(names), (), {}) if isinstance(value, Tensor) else value

        args, kwargs = tree_map(stand_in, self._inputs)

        def flat(*given: Any) -> tuple[Any, ...]:
            leaves, self.output_spec = tree_flatten(root_fn(*given, **kwargs))
            return tuple(leaves)

        return flat, [self.root, *args]


def _of_timm(model: nn.Module) -> tuple[tuple[type, ...], tuple[Callable[..., Any], ...]]:
    """What timm keeps whole in its own graphs; nothing where the model is not of timm."""
    if "timm" not in sys.modules or not any(type(each).__module__.startswith("timm.") for each in model.modules()):
        return (), ()
    from timm.models import get_notrace_functions, get_notrace_modules  # noqa: PLC0415  it is there already

    return tuple(get_notrace_modules()), tuple(get_notrace_functions())
