"""Whether parts compute what the model computes: outputs, buffers and gradients, from the same random state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten

from common.errors import PartitionError
from common.partition.inputs import fresh

FAILURES = (RuntimeError, LookupError, TypeError, ValueError, AssertionError, AttributeError, NotImplementedError)
"""What a model raises that does not take its inputs."""

_PLAIN = (bool, int, float, str, bytes)

ROUNDING = 1e-4
"""How much of its largest element a gradient may differ by: sums over several uses are taken in another order."""


@dataclass(frozen=True)
class Outcome:
    """What one forward pass (and in training a backward pass) of a model leaves."""

    form: TreeSpec
    outputs: list[Any]
    buffers: list[Tensor]
    gradients: list[str | None]
    """Digests: the gradients at once would take as much memory as the model, which an edge may not have twice."""
    recompute: Callable[[], list[Tensor | None]]
    """The gradients themselves."""


def outcome(
    model: nn.Module,
    run: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    training: bool,
) -> Outcome:
    """Run ``model``, or parts over its parameters and buffers, and put everything back as it was."""

    def forward() -> tuple[list[Any], TreeSpec]:
        own_args, own_kwargs = fresh(args, kwargs)
        model.train(training)
        torch.manual_seed(0)
        return tree_flatten(run(*own_args, **own_kwargs))

    def recompute() -> list[Tensor | None]:
        with undisturbed(model), torch.enable_grad():
            return _gradients(forward()[0], model)

    with undisturbed(model), torch.set_grad_enabled(training):
        leaves, form = forward()
        buffers = [buffer.clone() for buffer in model.buffers()]
        gradients = _digests(leaves, model) if training else []
        outputs = [each.detach() if isinstance(each, Tensor) else each for each in leaves]
    return Outcome(form, outputs, buffers, gradients, recompute)


def through(parts: Sequence[nn.Module], *, training: bool) -> Callable[..., Any]:
    """The parts one behind the other."""

    def run(*args: Any, **kwargs: Any) -> Any:
        for part in parts:
            part.train(training)
        values = parts[0](*args, **kwargs)
        for part in parts[1:]:
            values = part(*values)
        return values

    return run


def difference(expected: Outcome, found: Outcome) -> str:
    """What differs, in words; empty where nothing does. Outputs and buffers must be equal bit for bit."""
    if expected.form != found.form:
        return "gives outputs of another form"
    if not all(map(_equal, expected.outputs, found.outputs)):
        return "gives other outputs"
    if not all(map(_equal, expected.buffers, found.buffers)):
        return "leaves other buffers"
    if expected.gradients != found.gradients and not all(map(_nearly_equal, expected.recompute(), found.recompute())):
        return "gives other gradients"
    return ""


def require_equal(expected: Outcome, found: Outcome, where: str) -> None:
    """Raises PartitionError where the parts differ from the model."""
    if what := difference(expected, found):
        raise PartitionError(f"what it computes {where} is not what the model does: it {what}")


def _gradients(outputs: Sequence[Any], model: nn.Module) -> list[Tensor | None]:
    """Gradients of all parameters, of a sum of the outputs with weights of all sizes; None where there is none."""
    parameters = _trained(model)
    losses = [
        (each.flatten() * torch.linspace(-1, 1, each.numel(), dtype=each.dtype, device=each.device)).sum()
        for each in outputs
        if isinstance(each, Tensor) and each.requires_grad
    ]
    if not parameters or not losses:
        return [None] * len(parameters)
    return list(torch.autograd.grad(losses, parameters, allow_unused=True))


def _digests(outputs: Sequence[Any], model: nn.Module) -> list[str | None]:
    """Digests of `_gradients`, one of which at a time is in memory."""
    parameters, found = _trained(model), dict[int, str]()

    def take(place: int, gradient: Tensor) -> Tensor:
        found[place] = _digest(gradient)
        return gradient.new_zeros(()).expand(gradient.shape)  # of its shape, without its memory

    handles = [
        each.register_hook(partial(take, place))  # type: ignore[no-untyped-call]
        for place, each in enumerate(parameters)
    ]
    try:
        _gradients(outputs, model)
    finally:
        for handle in handles:
            handle.remove()
    return [found.get(place) for place in range(len(parameters))]


def _digest(gradient: Tensor) -> str:
    values = gradient.to_dense() if gradient.layout is not torch.strided else gradient
    flat: Any = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(flat)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [each for each in model.parameters() if each.requires_grad]


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and (not isinstance(a, _PLAIN) or a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(torch.allclose(a, b, 0, 0, equal_nan=True))


def _nearly_equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if torch.equal(a, b):
        return True
    size = float(a.abs().max()) if a.numel() else 0.0
    return bool(torch.allclose(a, b, 0, ROUNDING * size, equal_nan=True))


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Puts modes, buffers and torch's random state back as they were."""
    trained = [(each, each.training) for module in modules for each in module.modules()]
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for each, training in trained:
                each.training = training
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Puts the attributes of all modules back as they were: a tracer's stand-ins must not stay in a model's caches."""
    before = [(each, dict(vars(each))) for each in model.modules()]
    contents = [
        (each, each.copy()) for _, plain in before for each in plain.values() if type(each) in (dict, list, set)
    ]
    try:
        yield
    finally:
        for module, plain in before:
            vars(module).clear()
            vars(module).update(plain)
        for container, content in contents:
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)
