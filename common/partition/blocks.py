"""The blocks of a model: what a user would call its stages, or its list of layers."""

from collections.abc import Sequence

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Blocks:
    """The modules that are left when the model itself and what only holds others are opened.

    Opened are plain containers (`nn.Sequential` and the like), and a module that holds more than half of all layers,
    such as the body of a language model under its head.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = {path: _layers(module) for path, module in model.named_modules(remove_duplicate=False)}
        self._opened = {
            path
            for path, module in model.named_modules(remove_duplicate=False)
            if not path or type(module) in CONTAINERS or 2 * layers[path] > layers[""] > 4
        }
        self._whole = {
            path
            for path, module in model.named_modules(remove_duplicate=False)
            if not _opened_by_torch(module) and path
        }

    def block(self, modules: Sequence[str]) -> str | None:
        """The block that a step is in, by the paths of the modules around it, outermost first."""
        return next((path for path in modules if path not in self._opened), None)

    def is_layer(self, path: str) -> bool:
        """Whether a module is a layer: one without others in it, or one of torch's own."""
        return path in self._whole


def _layers(module: nn.Module) -> int:
    return sum(not any(each.children()) for each in module.modules())


def _opened_by_torch(module: nn.Module) -> bool:
    """As torch.fx has it: torch's own modules are layers, but for containers. Subclasses of these are blocks."""
    own = type(module).__module__.startswith("torch.nn") and type(module) not in CONTAINERS
    return any(module.children()) and not own
