"""Ghosts: tensors of which a part knows everything but the elements."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from common.errors import PartitionError
from common.partition.recording.calls import call_of

_CONTAINERS = (tuple, list, dict, slice)


class Ghost(Tensor):
    """Stands in for a tensor of the other side: shape, dtype and device are right, and nothing can be computed of it.

    It has the memory of one element. What asks for more, inside or outside of a part, gets an error.
    """

    nested: bool = False
    """Whether it passes for a nested tensor; torch's fast path of encoders asks."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        call = call_of(func)
        if not call.query:
            refuse(call.short)
        if call.short == "is_nested":
            return any(each.nested for each in args if type(each) is Ghost)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Ghost({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ghost":
        return self  # nothing of it ever changes


def ghost(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    requires_grad: bool = False,
    parameter: bool = False,
) -> Ghost:
    """A new ghost.

    Args:
        shape: of any size.
        dtype: any.
        device: where the tensor would be on this side.
        requires_grad: what it answers when asked.
        parameter: whether it passes for an `nn.Parameter`.
    """
    element = torch.zeros(1, dtype=dtype, device=device).as_strided(tuple(shape), (0,) * len(shape))
    made: Ghost = Tensor._make_subclass(Ghost, element, requires_grad)
    if parameter:
        made._is_param = True  # what isinstance(…, nn.Parameter) looks at
    return made


def ghost_of(tensor: Tensor, device: torch.device | None = None) -> Ghost:
    """The ghost of a parameter or buffer."""
    parameter = isinstance(tensor, torch.nn.Parameter)
    return ghost(tensor.shape, tensor.dtype, device or tensor.device, tensor.requires_grad, parameter)


def ghostly(values: Iterable[Any]) -> bool:
    """Whether there is a ghost among values, or in a container among them."""
    for each in values:
        kind = type(each)
        if kind is Ghost:
            return True
        if kind in _CONTAINERS and ghostly(_inside(each)):
            return True
    return False


def _inside(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return (container.start, container.stop, container.step) if isinstance(container, slice) else container


def refuse(what: str) -> NoReturn:
    """Say that a computation needs a tensor that is not here."""
    raise PartitionError(
        f"{what} needs a tensor that did not cross the cut, or weights of another part: the model took another way "
        "than in its recordings; record it with such inputs too"
    )
