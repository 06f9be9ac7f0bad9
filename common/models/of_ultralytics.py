"""ultralytics' YOLO and RT-DETR, ``ultralytics:NAME``: built from the YAML files that come with it, untrained.

Names are checked against those files before anything is imported or built, so none is ever a path, an address or a
file of weights. The import itself would make a settings file in the user's home, look for a network, change torch's
printing and saving and how Pillow opens files, and set variables for all programs started later; here it leaves
everything as it was.
"""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.errors import UsageError
from common.models.choice import Choice, unknown
from common.models.extras import building, load
from common.models.inputs import Images

PREFIX = "ultralytics:"
_ANY = PREFIX + "NAME"
_LIST = "the files ultralytics/cfg/models/**/*.yaml give all, with the size behind the version: yolov8n-seg"
_SWITCHES = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
_SIZED = re.compile(r"yolo(?:e-)?v?\d+")
"""As ultralytics itself finds the letter of the size: right behind the version."""
# By what the name of the last layer starts with, in this order.
_CLASSES = {
    "RTDETRDecoder": "RTDETRDetectionModel",
    "WorldDetect": "WorldModel",
    "YOLOESegment": "YOLOESegModel",
    "YOLOEDetect": "YOLOEModel",
    "Classify": "ClassificationModel",
    "OBB": "OBBModel",
    "Pose": "PoseModel",
    "SemanticSegment": "SemanticSegmentationModel",
    "Segment": "SegmentationModel",
    "Depth": "DepthModel",
    "v10Detect": "DetectionModel",
    "Detect": "DetectionModel",
}


def choose(name: str) -> Choice:
    """The model of a name behind the prefix: ``yolov8n``, ``yolov8n-cls``, ``yolo11n-seg``, ``rtdetr-l``.

    Raises:
        UsageError: ultralytics has no such model, or is not installed.
    """
    known = _names()
    if name.lower() not in known:
        raise unknown("ultralytics has no model", name, known, _LIST)
    name = name.lower()
    classifies = "-cls" in name
    side = 224 if classifies else 640
    return Choice(PREFIX + name, partial(_build, name), Images((3, side, side)), classifies)


def _names() -> dict[str, tuple[Path, str]]:
    """File and size of each name."""
    spec = find_spec("ultralytics")  # finds, and does not import
    if spec is None or spec.origin is None:
        load("ultralytics", "zoo", _ANY)  # says what is missing
        raise UsageError(f"{_ANY}: ultralytics is installed without its files")
    return _names_in(Path(spec.origin).parent / "cfg" / "models")


@cache
def _names_in(folder: Path) -> dict[str, tuple[Path, str]]:
    names = {}
    for path in sorted(folder.rglob("*.yaml")):
        sizes = list(_read(path).get("scales", {}))
        names[path.stem] = (path, sizes[0] if sizes else "")
        if version := _SIZED.match(path.stem):
            end = version.end()
            names |= {path.stem[:end] + size + path.stem[end:]: (path, size) for size in sizes if len(sizes) > 1}
    return names


def _read(path: Path) -> dict[str, Any]:
    content = load("yaml", "zoo", _ANY).safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise UsageError(f"{path} describes no model")
    return content


def _build(name: str, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    path, size = _names()[name]
    config = {**_read(path), "scale": size, "yaml_file": f"{name}.yaml"}
    for layer in config["backbone"]:
        if layer[2] == "TorchVision":  # a backbone of torchvision's, with weights that would be downloaded
            layer[3] = [None if each == "DEFAULT" else each for each in layer[3]]
    head = config["head"][-1][2]
    kind = next((kind for start, kind in _CLASSES.items() if head.startswith(start)), None)
    tasks = _imported(PREFIX + name)
    if kind is None or not hasattr(tasks, kind):
        raise UsageError(f"{PREFIX}{name} ends in {head}, which is unknown here; another version of ultralytics may do")
    with building(PREFIX + name), _silent():
        model: nn.Module = getattr(tasks, kind)(config, ch=3, nc=num_classes, verbose=False)
    if kind == "ClassificationModel":
        _give_logits(model, dropout)
    elif dropout:
        raise UsageError(f"--dropout is {dropout}, but ultralytics builds {name} without dropout; leave it out")
    return model


def _imported(asked: str) -> ModuleType:
    if "ultralytics" in sys.modules:
        return load("ultralytics.nn.tasks", "zoo", asked)
    with TemporaryDirectory(prefix="ultralytics-") as folder, _as_before():
        os.environ.update(_SWITCHES, YOLO_CONFIG_DIR=folder)
        return load("ultralytics.nn.tasks", "zoo", asked)


@contextmanager
def _as_before() -> Iterator[None]:
    """Takes back what the import changes for everyone."""
    environment, save, opened = dict(os.environ), torch.save, Image.open
    shown = vars(torch._tensor_str.PRINT_OPTS).copy()
    try:
        with np.printoptions():
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for module, name, function in ((torch, "save", save), (Image, "open", opened)):
            setattr(module, name, function)
        vars(torch._tensor_str.PRINT_OPTS).update(shown)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the summary that it prints to standard output."""
    logger = logging.getLogger("ultralytics")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _give_logits(model: nn.Module, dropout: float) -> None:
    """Where evaluation would give probabilities and logits: the logits alone, as in training."""
    head = model.get_submodule("model")[-1]  # type: ignore[index]
    head.drop.p = dropout
    head.__class__ = type(type(head).__name__, (_Logits, type(head)), {"__module__": type(head).__module__})


class _Logits(nn.Module):
    """The forward pass of a `Classify` layer without its last step."""

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        features: Any = torch.cat(x, 1) if isinstance(x, list) else x
        layers: Any = self
        logits: Tensor = layers.linear(layers.drop(layers.pool(layers.conv(features)).flatten(1)))
        return logits
