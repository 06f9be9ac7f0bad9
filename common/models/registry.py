"""The table of models that can be asked for by name, and the libraries that are asked for all others."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from common.errors import UsageError
from common.models import bilstm, mobilenet, of_timm, of_torchvision, of_transformers, of_ultralytics, resnet, vgg
from common.models.choice import Choice
from common.models.inputs import Images, Tokens
from common.models.weights import initialise
from common.naming import nearest

__all__ = ["MODELS", "Choice", "build_model", "choose", "find", "input_shape"]


class Entry(NamedTuple):
    """How one model is made and what it takes."""

    build: Callable[[int, float], nn.Module]
    """Called with the number of classes and the dropout probability."""
    inputs: Images | Tokens
    """What it takes."""
    description: str
    """One line for the user."""
    dropout: float = 0.0
    """Its own, where none is asked for."""


IMAGE = (3, 32, 32)
_CIFAR = Images(IMAGE)

MODELS: dict[str, Entry] = {
    "VGG11": Entry(partial(vgg.vgg, vgg.VGG11), _CIFAR, "VGG with 8 convolutions, 11 slices"),
    "VGG16": Entry(partial(vgg.vgg, vgg.VGG16), _CIFAR, "VGG with 13 convolutions, 16 slices"),
    "VGG19": Entry(partial(vgg.vgg, vgg.VGG19), _CIFAR, "VGG with 16 convolutions, 19 slices"),
    "resnet18": Entry(
        partial(resnet.basic_resnet, resnet.RESNET18, resnet.IMAGENET_WIDTHS),
        _CIFAR,
        "ResNet of 8 basic blocks, 64 to 512 channels, 11 slices",
    ),
    "resnet50": Entry(
        partial(resnet.bottleneck_resnet, resnet.RESNET50, resnet.IMAGENET_WIDTHS),
        _CIFAR,
        "ResNet of 16 bottlenecks, 256 to 2048 channels, 19 slices",
    ),
    "resnet50_imgnet": Entry(
        partial(resnet.bottleneck_resnet, resnet.RESNET50, resnet.IMAGENET_WIDTHS, stem=resnet.ImageNetStem),
        Images((3, 64, 64)),
        "the same with ImageNet's stem, for images of 64x64, 19 slices",
    ),
    "resnet20": Entry(
        partial(resnet.basic_resnet, resnet.RESNET20, resnet.CIFAR_WIDTHS),
        _CIFAR,
        "small ResNet of 9 basic blocks, 16 to 64 channels, 12 slices",
    ),
    "resnet56": Entry(
        partial(resnet.basic_resnet, resnet.RESNET56, resnet.CIFAR_WIDTHS),
        _CIFAR,
        "small ResNet of 27 basic blocks, 16 to 64 channels, 30 slices",
    ),
    "Mobilenetv3_large": Entry(
        mobilenet.mobilenet_v3_large, _CIFAR, "MobileNetV3-large, 18 slices", dropout=mobilenet.DROPOUT
    ),
    "BILSTM": Entry(
        bilstm.BiLSTM,
        Tokens(bilstm.VOCABULARY, length=bilstm.LENGTH),
        "bidirectional LSTM on texts of 200 words, 5 slices",
    ),
}
# Libraries that are installed here, each with a table of names of its own.
_LIBRARIES: dict[str, Callable[[str], Choice]] = {
    of_torchvision.PREFIX: of_torchvision.choose,
    of_timm.PREFIX: of_timm.choose,
    of_ultralytics.PREFIX: of_ultralytics.choose,
    of_transformers.PREFIX: of_transformers.choose,
}
_OTHERS = [
    "torchvision:NAME",
    "timm:NAME",
    "ultralytics:NAME",
    "hf:TYPE",
    "path/to/file.py:factory",
    "path/to/file.keras",
]
_LONGEST = 200


def build_model(name: str, num_classes: int = 10, *, dropout: float | None = None) -> nn.Module:
    """Build a model with fresh weights, drawn from torch's global generator.

    Args:
        name: a key of `MODELS`, or the prefix of a library and a name of its own, in upper or lower case.
        num_classes: width of the last layer.
        dropout: probability of dropping a hidden feature of the classifier; 0 leaves dropout out, None is the
            model's own. Some models of libraries know no dropout, and torchvision's transformers drop in every block.

    Raises:
        UsageError: no model has this name, it knows no dropout, or its library is not installed.
    """
    chosen = find(name)
    return chosen.build(num_classes, dropout=chosen.dropout if dropout is None else dropout)


def input_shape(name: str) -> tuple[int, ...]:
    """Return the shape of one sample of the classifier ``name``: (channels, height, width), or words of a text."""
    return find(name).input_shape


def choose(name: str) -> Choice:
    """The classifier of a name that may have come from a peer, under the one spelling that jobs use.

    Raises:
        UsageError: no model has this name, or it is no classifier that can be trained.
    """
    chosen = find(name)
    chosen.require_classifier()
    return chosen


def find(name: str) -> Choice:
    """The model of a name, of any kind.

    Names are looked up in tables of code that is installed here; they never load a file or reach a network.

    Raises:
        UsageError: no model has this name, or its library is not installed.
    """
    if len(name) > _LONGEST:
        raise UsageError(f"a model's name has {_LONGEST} letters at most, not {len(name)}")
    prefix, colon, rest = name.partition(":")
    if library := _LIBRARIES.get(prefix.lower() + colon):
        return library(rest)
    spelled = {known.lower(): known for known in MODELS}
    if name.lower() not in spelled:
        raise UsageError(f"no model is called {name!r}; {nearest(name, MODELS)}, {', '.join(_OTHERS)}")
    known = spelled[name.lower()]
    entry = MODELS[known]
    return Choice(known, partial(_build, entry), entry.inputs, dropout=entry.dropout)


def _build(entry: Entry, num_classes: int, *, dropout: float | None = None) -> nn.Module:
    model = entry.build(num_classes, entry.dropout if dropout is None else dropout)
    if isinstance(entry.inputs, Images):  # texts' were published with torch's own first weights
        initialise(model)  # the libraries' models come with weights drawn by their own rules
    return model
