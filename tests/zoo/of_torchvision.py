"""torchvision: 38 models, one or two of every family it has but MViT.

MViT's train pass takes too long for the small batch of a check.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, Inputs, MakeInputs, generator, images, library, of_images

_CLASSIFIERS = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 299,  # its second classifier takes no smaller image
    "maxvit_t": 224,  # windows of 7 have to fit at every scale
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vit_b_32": 64,
}
_EXTRA: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "vit_b_32": {"image_size": 64},
    "fcn_resnet50": {"aux_loss": True},
}
_SEGMENTATION = ("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")
_VIDEO = {  # frames, height and width
    "r3d_18": (8, 32),
    "mc3_18": (8, 32),
    "r2plus1d_18": (8, 32),
    "s3d": (14, 216),  # its last pooling takes no smaller clip
    "swin3d_t": (4, 64),
}
_SCALED = {"min_size": 96, "max_size": 128}
_DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": _SCALED,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _SCALED,
    "fcos_resnet50_fpn": _SCALED,
    "keypointrcnn_resnet50_fpn": {**_SCALED, "box_detections_per_img": 5},
    "maskrcnn_resnet50_fpn": {**_SCALED, "box_detections_per_img": 5},
    "retinanet_resnet50_fpn": _SCALED,
    "ssd300_vgg16": {},
    "ssdlite320_mobilenet_v3_large": {},
}


def torchvision_entries() -> list[Entry]:
    """Classification, segmentation, video, optical flow, detection."""
    return [
        *(_entry(name, of_images(size)) for name, size in _CLASSIFIERS.items()),
        *(_entry(name, of_images(64, batch=4), weights_backbone=None) for name in _SEGMENTATION),
        *(_entry(name, _clips(*size)) for name, size in _VIDEO.items()),
        _entry("raft_small", _image_pairs, num_classes=None),
        *(
            _entry(name, _scenes, weights_backbone=None, num_classes=2 if "keypoint" in name else 5, **sizes)
            for name, sizes in _DETECTORS.items()
        ),
    ]


def _entry(name: str, inputs: MakeInputs, **options: Any) -> Entry:
    options = {"num_classes": 10, **_EXTRA.get(name, {}), **options}
    given = {key: value for key, value in options.items() if (key, value) != ("num_classes", None)}

    def build() -> nn.Module:
        model: nn.Module = library("torchvision.models").get_model(name, weights=None, **given)
        return model

    return Entry(name, "torchvision", "torchvision", build, inputs)


def _clips(frames: int, size: int) -> MakeInputs:
    return lambda seed: ((torch.rand(2, 3, frames, size, size, generator=generator(seed)),), {})


def _image_pairs(seed: int) -> Inputs:
    first, second = images(seed, 128, batch=4).chunk(2)
    return (first, second), {"num_flow_updates": 3}


def _scenes(seed: int) -> Inputs:
    """Images of two sizes and what is on them; detectors give detections in evaluation, and losses in training."""
    random = generator(seed)
    targets = [_target([[10, 10, 60, 60], [30, 20, 90, 80]]), _target([[5, 15, 50, 70]])]
    return ([torch.rand(3, 96, width, generator=random) for width in (128, 112)], targets), {}


def _target(boxes: list[list[int]]) -> dict[str, Tensor]:
    corners = torch.tensor(boxes, dtype=torch.float32)
    masks = torch.zeros(len(boxes), 96, 128 if len(boxes) > 1 else 112, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    # Keypoints on the diagonal of the box, all visible.
    along = torch.linspace(0.1, 0.9, 17)[None, :, None]
    points = corners[:, None, :2] + along * (corners[:, None, 2:] - corners[:, None, :2])
    return {
        "boxes": corners,
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": masks,
        "keypoints": torch.cat([points, torch.ones(len(boxes), 17, 1)], 2),
    }
