"""torchvision's models, ``torchvision:NAME``: bare, with weights drawn by their own rules."""

import inspect
from functools import partial
from typing import Any

from torch import nn

from common.errors import UsageError
from common.models.choice import Choice, unknown
from common.models.extras import building
from common.models.inputs import ImageList, ImagePairs, Images, Inputs, Videos

PREFIX = "torchvision:"
_LIST = "torchvision.models.list_models() gives all"
# By the package that a model stands in; image classifiers stand in none.
_INPUTS: dict[str, Inputs] = {
    "segmentation": Images((3, 224, 224)),
    "detection": ImageList((3, 320, 320)),
    "video": Videos((3, 224, 224)),
    "optical_flow": ImagePairs((3, 128, 128)),
}
_OTHER_INPUTS: dict[str, Inputs] = {
    "inception_v3": Images((3, 299, 299)),
    **{name: Videos((3, 112, 112)) for name in ("r3d_18", "mc3_18", "r2plus1d_18")},
}


def choose(name: str) -> Choice:
    """The model of a name behind the prefix, in upper or lower case.

    Raises:
        UsageError: torchvision has no such model, or it is quantized.
    """
    from torchvision import models  # noqa: PLC0415  costs a second

    name = name.lower()
    if name not in models.list_models():
        plain = [each for each in models.list_models() if not each.startswith("quantized_")]
        raise unknown("torchvision has no image classifier", name, plain, _LIST)
    package = models.get_model_builder(name).__module__.split(".")[2]
    if package == "quantization":
        plain_name = name.removeprefix("quantized_")
        raise UsageError(f"{PREFIX}{name} is quantized, without gradients; use {PREFIX}{plain_name}")
    inputs = _OTHER_INPUTS.get(name) or _INPUTS.get(package) or Images((3, 224, 224))
    return Choice(PREFIX + name, partial(_build, name), inputs, classifies=package not in _INPUTS)


def _build(name: str, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    from torchvision import models  # noqa: PLC0415  costs a second

    builder = inspect.signature(models.get_model_builder(name))
    accepted = inspect.signature(builder.return_annotation).parameters
    options: dict[str, Any] = {"num_classes": num_classes}
    if name.startswith("raft_"):  # a flow is of no class
        options = {}
    if "weights_backbone" in builder.parameters:  # else they are downloaded
        options["weights_backbone"] = None
    if "aux_logits" in accepted:  # else training gives a tuple of three outputs
        options |= {"aux_logits": False, "init_weights": False}
    if "dropout" in accepted:
        options["dropout"] = dropout
    elif dropout:
        raise UsageError(f"--dropout is {dropout}, but torchvision builds {name} without dropout; leave it out")
    with building(PREFIX + name):
        model: nn.Module = models.get_model(name, weights=None, **options)
    return model
