"""Freeze a part of a model: its weights are not trained, and it computes as in evaluation, whatever mode it is put in.

So batch norms keep their statistics and nothing is dropped: what a frozen part makes of a sample is always the same.
"""

from types import MethodType

from torch import nn


def freeze(model: nn.Module, part: nn.Module) -> None:
    """Freeze what a part, of the same names, has of a model.

    Args:
        model: the whole; changed in place.
        part: as the model was cut.
    """
    state = {name for name, _ in (*part.named_parameters(), *part.named_buffers())}
    layers = {path for path, _ in part.named_modules()}
    for name, value in model.named_parameters():
        if name in state:
            value.requires_grad_(False)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        own = [prefix + name for name, _ in (*module.named_parameters(), *module.named_buffers())]
        if state.issuperset(own) if own else path in layers:
            module.eval()
            # A method of this one module: classes decide how a model is traced, so it must keep its class.
            module.train = MethodType(_stay, module)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    del mode
    return module
