"""timm's image classifiers, ``timm:NAME``: bare, with weights drawn by their own rules."""

from functools import partial
from typing import Any

from torch import nn

from common.errors import UsageError
from common.models.choice import Choice, unknown
from common.models.extras import building, load
from common.models.inputs import Images

PREFIX = "timm:"
_LIST = "timm.list_models() gives all"


def choose(name: str) -> Choice:
    """The model of a name behind the prefix, in upper or lower case.

    Only what timm's own table lists: its other names (``hf-hub:``, ``local-dir:``) load weights from elsewhere.

    Raises:
        UsageError: timm has no such model, or is not installed.
    """
    timm = load("timm", "zoo", PREFIX + name)
    known = {each.lower(): each for each in timm.list_models()}
    if name.lower() not in known:
        raise unknown("timm has no model", name, known, f"{_LIST}, to be named without a tag")
    name = known[name.lower()]
    config = timm.get_pretrained_cfg(name)
    C, H, W = config.input_size if config else (3, 224, 224)
    return Choice(PREFIX + name, partial(_build, name), Images((C, H, W)))


def _build(name: str, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    timm = load("timm", "zoo", PREFIX + name)
    options: dict[str, Any] = {"drop_rate": dropout} if dropout else {}
    try:
        with building(PREFIX + name):
            model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
    except UsageError as error:
        if isinstance(error.__cause__, TypeError) and "drop_rate" in str(error.__cause__):
            raise UsageError(f"--dropout is {dropout}, but timm builds {name} without dropout; leave it out") from None
        raise
    return model
