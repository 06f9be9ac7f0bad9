"""torchvision's pretrained weights, for its own models and in the names and shapes of Tandem's.

They are those that ImageNet's first recipe gave (IMAGENET1K_V1), which the paper started from. Where a model of
Tandem's differs from torchvision's for the sake of small images, that layer has no weights here.
"""

import re
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor

from common.errors import UsageError
from common.models import of_torchvision
from common.models.weight_files import State, read_weights
from common.naming import nearest

_DOWNLOAD_TIMEOUT_S = 60.0
_VGG_POOLED = 7  # torchvision's VGG pools to 7x7, which for images of 32x32 is the same value 49 times
_MOBILENET_EPS = 1e-3  # of its batch norms; ours have torch's 1e-5


class Published(NamedTuple):
    """A model of torchvision's, and how its weights are those of another one."""

    name: str
    translate: Callable[[State], State]


def published(model: str) -> Published:
    """Whose weights a model takes.

    Raises:
        UsageError: torchvision has none for it.
    """
    if model.startswith(of_torchvision.PREFIX):
        return Published(model.removeprefix(of_torchvision.PREFIX), dict)
    if model not in TABLE:
        raise UsageError(
            f"--pretrained: torchvision has no weights for {model}; {nearest(model, TABLE)}, torchvision:NAME; "
            "or load a file with --weights FILE"
        )
    return TABLE[model]


def weights_of(name: str) -> Any:
    """torchvision's description of the weights of one of its models: with ``url``, and printed with its own name.

    Raises:
        UsageError: it has none.
    """
    from torchvision import models  # noqa: PLC0415  costs a second

    all_of_them = models.get_model_weights(name)
    if not len(all_of_them):
        raise UsageError(f"--pretrained: torchvision has no weights for {name}; load a file with --weights FILE")
    return getattr(all_of_them, "IMAGENET1K_V1", None) or all_of_them.DEFAULT


def fetched(name: str) -> Path:
    """The file of the weights, which is downloaded where torch's cache does not have it.

    Raises:
        UsageError: it cannot be downloaded.
    """
    url = weights_of(name).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if path.is_file():
        return path
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # torch's own request has none
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), found and found[1], progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"--pretrained needs torchvision's weights, which are not in {path.parent} and could not be downloaded "
            f"({error}): get {url} on a machine with a network, and put it there or name it with --weights FILE"
        ) from error
    finally:
        socket.setdefaulttimeout(previous)
    return path


def pretrained(model: str) -> State:
    """Weights for a model, in its own names; of some layers there may be none.

    Raises:
        UsageError: there are none for it, or they cannot be downloaded.
    """
    name, translate = published(model)
    return translate(read_weights(fetched(name)))


def vgg(state: State) -> State:
    """Without the biases of convolutions, which their batch norms' means take over; exact in evaluation."""
    convolutions = sorted(int(key.split(".")[1]) for key, value in state.items() if value.ndim == 4)
    out: State = {}
    for block, layer in enumerate(convolutions):
        out[f"features.{block}.conv.weight"] = state[f"features.{layer}.weight"]
        out |= dict(_renamed(state, f"features.{layer + 1}.", f"features.{block}.norm."))
        out[f"features.{block}.norm.running_mean"] = (
            state[f"features.{layer + 1}.running_mean"] - state[f"features.{layer}.bias"]
        )
    hidden = state["classifier.0.weight"]
    by_place = hidden.view(len(hidden), -1, _VGG_POOLED, _VGG_POOLED)
    out["classifier.0.linear.weight"] = by_place.sum((2, 3))
    out["classifier.0.linear.bias"] = state["classifier.0.bias"]
    out |= dict(_renamed(state, "classifier.3.", "classifier.1.linear."))
    return out | dict(_renamed(state, "classifier.6.", "classifier.2."))


def resnet(state: State, *, stem: bool) -> State:
    """With or without the stem, which Tandem's CIFAR form has of its own."""
    parts = {"conv1": "branch.0", "bn1": "branch.1", "conv2": "branch.3", "bn2": "branch.4"}
    parts |= {"conv3": "branch.6", "bn3": "branch.7", "downsample.0": "shortcut.0", "downsample.1": "shortcut.1"}
    out = dict(_renamed(state, "fc.", "classifier."))
    if stem:
        out |= dict(_renamed(state, "conv1.", "features.0.0.")) | dict(_renamed(state, "bn1.", "features.0.1."))
    blocks = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in state if key.startswith("layer")))
    for number, block in enumerate(blocks, start=1):
        for theirs, ours in parts.items():
            out |= dict(_renamed(state, f"{block}.{theirs}.", f"features.{number}.{ours}."))
    return out


def mobilenet(state: State) -> State:
    """Batch norms' variances take over the difference between the two eps.

    The forms differ: torchvision's first block expands nothing, its third stage squeezes to other widths, and its
    hidden layer has a bias.
    """
    state = {
        key: value + (_MOBILENET_EPS - 1e-5) if key.endswith("running_var") else value for key, value in state.items()
    }
    out = _conv_norm(state, "features.0", "features.0.conv", "features.0.norm")
    out |= _conv_norm(state, "features.16", "features.16.conv", "features.16.norm")
    for number in range(1, 16):
        block, branch = f"features.{number}.block", f"features.{number}.branch"
        layers = sorted({int(key.split(".")[3]) for key in state if key.startswith(f"{block}.")})
        convolutions = [layer for layer in layers if f"{block}.{layer}.0.weight" in state]
        names = ("expand", "depthwise", "project")[3 - len(convolutions) :]  # the first block expands nothing there
        for layer, ours in zip(convolutions, names, strict=True):
            out |= _conv_norm(state, f"{block}.{layer}", f"{branch}.{ours}", f"{branch}.{ours}_norm")
        for layer in set(layers) - set(convolutions):
            for theirs, index in (("fc1", 1), ("fc2", 3)):
                out |= dict(_renamed(state, f"{block}.{layer}.{theirs}.", f"{branch}.squeeze.weigh.{index}."))
    out["features.16.hidden.weight"] = state["classifier.0.weight"][:, :, None, None]
    return out | dict(_renamed(state, "classifier.3.", "classifier."))


def _conv_norm(state: State, theirs: str, conv: str, norm: str) -> State:
    """A convolution and its batch norm, as torchvision puts them together."""
    return {**dict(_renamed(state, f"{theirs}.0.", f"{conv}.")), **dict(_renamed(state, f"{theirs}.1.", f"{norm}."))}


def _renamed(state: State, theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
    """What is behind a prefix, behind another one."""
    return ((ours + key[len(theirs) :], value) for key, value in state.items() if key.startswith(theirs))


TABLE = {
    "VGG11": Published("vgg11_bn", vgg),
    "VGG16": Published("vgg16_bn", vgg),
    "VGG19": Published("vgg19_bn", vgg),
    "resnet18": Published("resnet18", partial(resnet, stem=False)),
    "resnet50": Published("resnet50", partial(resnet, stem=False)),
    "resnet50_imgnet": Published("resnet50", partial(resnet, stem=True)),
    "Mobilenetv3_large": Published("mobilenet_v3_large", mobilenet),
}
