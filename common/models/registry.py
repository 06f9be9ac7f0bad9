"""The table of models that can be asked for by name; ``torchvision:NAME`` asks for one of torchvision's."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

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


class Choice(NamedTuple):
    """A model that was chosen, by whatever kind of name."""

    name: str
    """As jobs call it."""
    build: Callable[..., nn.Module]
    """Called with the number of classes, and ``dropout=``."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of one image."""


TORCHVISION_PREFIX = "torchvision:"

_LIST = "torchvision.models.list_models(torchvision.models) gives all"
IMAGE = (3, 32, 32)

MODELS: dict[str, Entry] = {
    "VGG11": Entry(partial(vgg.vgg, vgg.VGG11), IMAGE, "VGG with 8 convolutions, 11 slices"),
    "VGG16": Entry(partial(vgg.vgg, vgg.VGG16), IMAGE, "VGG with 13 convolutions, 16 slices"),
    "VGG19": Entry(partial(vgg.vgg, vgg.VGG19), IMAGE, "VGG with 16 convolutions, 19 slices"),
    "resnet18": Entry(
        partial(resnet.basic_resnet, resnet.RESNET18, resnet.IMAGENET_WIDTHS),
        IMAGE,
        "ResNet of 8 basic blocks, 64 to 512 channels, 11 slices",
    ),
    "resnet50": Entry(
        partial(resnet.bottleneck_resnet, resnet.RESNET50, resnet.IMAGENET_WIDTHS),
        IMAGE,
        "ResNet of 16 bottlenecks, 256 to 2048 channels, 19 slices",
    ),
    "resnet20": Entry(
        partial(resnet.basic_resnet, resnet.RESNET20, resnet.CIFAR_WIDTHS),
        IMAGE,
        "small ResNet of 9 basic blocks, 16 to 64 channels, 12 slices",
    ),
    "resnet56": Entry(
        partial(resnet.basic_resnet, resnet.RESNET56, resnet.CIFAR_WIDTHS),
        IMAGE,
        "small ResNet of 27 basic blocks, 16 to 64 channels, 30 slices",
    ),
}


def build_model(name: str, num_classes: int = 10, *, dropout: float = 0.0) -> nn.Module:
    """Build a model with fresh weights, drawn from torch's global generator.

    Args:
        name: a key of `MODELS`, or ``torchvision:`` and an image classifier of torchvision, in upper or lower case.
        num_classes: width of the last layer.
        dropout: probability of dropping a hidden feature of the classifier; 0 leaves dropout out. Some of
            torchvision's models know no dropout, and its transformers drop in every block.

    Raises:
        UsageError: no model has this name, or it knows no dropout.
    """
    model = _entry(name).build(num_classes, dropout)
    if not _is_torchvisions(name):  # those come with weights drawn by their own rules
        initialise(model)
    return model


def input_shape(name: str) -> tuple[int, int, int]:
    """Return channels, height and width of the images that the model ``name`` takes."""
    return _entry(name).input_shape


def choose(name: str) -> Choice:
    """The model of a name, under the one spelling that jobs use.

    Raises:
        UsageError: no model has this name.
    """
    shape = input_shape(name)
    spelled = {known.lower(): known for known in MODELS}.get(name.lower(), name.lower())
    return Choice(spelled, partial(build_model, spelled), shape)


def _entry(name: str) -> Entry:
    if _is_torchvisions(name):
        return _torchvision_entry(name[len(TORCHVISION_PREFIX) :].lower())
    spelled = {known.lower(): known for known in MODELS}
    if name.lower() in spelled:
        return MODELS[spelled[name.lower()]]
    raise UsageError(f"no model is called {name!r}; {nearest(name, MODELS)}, torchvision:NAME, path/to/file.py:factory")


def _is_torchvisions(name: str) -> bool:
    return name.lower().startswith(TORCHVISION_PREFIX)


def _torchvision_entry(name: str) -> Entry:
    from torchvision import models  # noqa: PLC0415  costs a second

    known = models.list_models(module=models)  # image classifiers; the others take or give something else
    if name not in known:
        if name in models.list_models():
            raise UsageError(f"{TORCHVISION_PREFIX}{name} is no image classifier; {_LIST}")
        close = get_close_matches(name, known, n=3, cutoff=0.0)
        raise UsageError(f"torchvision has no image classifier {name!r}; the nearest are {', '.join(close)}; {_LIST}")
    side = 299 if name == "inception_v3" else 224
    return Entry(partial(_torchvision_model, name), (3, side, side), "torchvision's model, without trained weights")


def _torchvision_model(name: str, num_classes: int, dropout: float) -> nn.Module:
    from torchvision import models  # noqa: PLC0415  costs a second

    accepted = inspect.signature(inspect.signature(models.get_model_builder(name)).return_annotation).parameters
    options: dict[str, Any] = {}
    if "aux_logits" in accepted:  # else training gives a tuple of three outputs
        options = {"aux_logits": False, "init_weights": False}
    if "dropout" in accepted:
        options["dropout"] = dropout
    elif dropout:
        raise UsageError(f"--dropout is {dropout}, but torchvision builds {name} without dropout; leave it out")
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return model
