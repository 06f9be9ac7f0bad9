"""ultralytics: 14 models, every generation and every task, each in its smallest size."""

import os
from typing import Any

from torch import nn

from tests.zoo.entry import Entry, library, of_images

_SIZE = 64
_MODELS = {
    "yolov3-tiny": "Detection",
    "yolov5n": "Detection",
    "yolov8n": "Detection",
    "yolov8n-seg": "Segmentation",
    "yolov8n-pose": "Pose",
    "yolov8n-obb": "OBB",
    "yolov8n-cls": "Classification",
    "yolov8s-worldv2": "World",
    "yolov9t": "Detection",
    "yolov10n": "Detection",
    "yolo11n": "Detection",
    "yolo12n": "Detection",
    "yolo26n": "Detection",
    "rtdetr-l": "RTDETRDetection",
}
_OTHER_SIZES = {"rtdetr-l": 128}  # it picks 300 places of all that its feature maps have


def ultralytics_entries() -> list[Entry]:
    """One entry for each generation, and for each task of version 8."""
    return [_entry(name, kind) for name, kind in _MODELS.items()]


def _entry(name: str, kind: str) -> Entry:
    def build() -> nn.Module:
        for switch, value in (("YOLO_AUTOINSTALL", "false"), ("YOLO_VERBOSE", "false"), ("YOLO_OFFLINE", "true")):
            os.environ.setdefault(switch, value)  # read at import; without the first, it would install packages
        options: dict[str, Any] = {"ch": 3, "nc": 10, "verbose": False}
        model: nn.Module = getattr(library("ultralytics.nn.tasks"), f"{kind}Model")(f"{name}.yaml", **options)
        return model

    return Entry(name, "ultralytics", "ultralytics", build, of_images(_OTHER_SIZES.get(name, _SIZE)))
