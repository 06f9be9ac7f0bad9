"""The table of models that can be asked for by name."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from common.errors import UsageError
from common.models import resnet, vgg
from common.models.weights import initialise
from common.naming import nearest


class Entry(NamedTuple):
    """How one model is made and what it takes."""

    build: Callable[[int, float], nn.Module]
    """Called with the number of classes and the dropout probability."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of one image."""
    description: str
    """One line for the user."""


_IMAGE = (3, 32, 32)

MODELS: dict[str, Entry] = {
    "VGG11": Entry(partial(vgg.vgg, vgg.VGG11), _IMAGE, "VGG with 8 convolutions, 11 slices"),
    "VGG16": Entry(partial(vgg.vgg, vgg.VGG16), _IMAGE, "VGG with 13 convolutions, 16 slices"),
    "VGG19": Entry(partial(vgg.vgg, vgg.VGG19), _IMAGE, "VGG with 16 convolutions, 19 slices"),
    "resnet18": Entry(
        partial(resnet.basic_resnet, resnet.RESNET18, resnet.IMAGENET_WIDTHS),
        _IMAGE,
        "ResNet of 8 basic blocks, 64 to 512 channels, 11 slices",
    ),
    "resnet50": Entry(
        partial(resnet.bottleneck_resnet, resnet.RESNET50, resnet.IMAGENET_WIDTHS),
        _IMAGE,
        "ResNet of 16 bottlenecks, 256 to 2048 channels, 19 slices",
    ),
    "resnet20": Entry(
        partial(resnet.basic_resnet, resnet.RESNET20, resnet.CIFAR_WIDTHS),
        _IMAGE,
        "small ResNet of 9 basic blocks, 16 to 64 channels, 12 slices",
    ),
    "resnet56": Entry(
        partial(resnet.basic_resnet, resnet.RESNET56, resnet.CIFAR_WIDTHS),
        _IMAGE,
        "small ResNet of 27 basic blocks, 16 to 64 channels, 30 slices",
    ),
}


def build_model(name: str, num_classes: int = 10, *, dropout: float = 0.0) -> nn.Module:
    """Build a model with fresh weights, drawn from torch's global generator.

    Args:
        name: a key of `MODELS`, in upper or lower case.
        num_classes: width of the last layer.
        dropout: probability of dropping a hidden feature of the classifier; 0 leaves dropout out.

    Raises:
        UsageError: no model has this name.
    """
    model = _entry(name).build(num_classes, dropout)
    initialise(model)
    return model


def input_shape(name: str) -> tuple[int, int, int]:
    """Return channels, height and width of the images that the model ``name`` takes."""
    return _entry(name).input_shape


def _entry(name: str) -> Entry:
    spelled = {known.lower(): known for known in MODELS}
    if name.lower() in spelled:
        return MODELS[spelled[name.lower()]]
    raise UsageError(f"no model is called {name!r}; {nearest(name, MODELS)}")
