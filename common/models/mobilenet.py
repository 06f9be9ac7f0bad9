"""MobileNetV3-large for 32x32 images (Howard et al. 2019, table 1): one slice per inverted bottleneck.

The stem and the first two stages keep the image's size, and the stem begins with a batch norm of the image itself.
The slices are: stem, 15 bottlenecks, the final features, linear layer. Their outputs, B x C x H x W:

    slice  0, 1      2, 3      4-6      7-10    11, 12   13-15    16    17
    out    16,32,32  24,32,32  40,16,16  80,8,8  112,8,8  160,4,4  1280  classes
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import nn

STEM, FINAL, HIDDEN = 16, 960, 1280
DROPOUT = 0.8
"""Of the final features, as published."""


class Stage(NamedTuple):
    """Bottlenecks of one stage; the first of them has the stride."""

    widths: tuple[int, ...]
    expanded: tuple[int, ...]
    squeezed: tuple[bool, ...]
    """Which of them weigh their channels (squeeze and excitation)."""
    stride: int
    kernel: int
    activation: type[nn.Module]


STAGES = (
    Stage((16,), (16,), (False,), 1, 3, nn.ReLU),
    Stage((24, 24), (64, 72), (False,) * 2, 1, 3, nn.ReLU),
    Stage((40, 40, 40), (72, 120, 120), (True,) * 3, 2, 5, nn.ReLU),
    Stage((80,) * 4 + (112,) * 2, (240, 200, 184, 184, 480, 672), (False,) * 4 + (True,) * 2, 2, 3, nn.Hardswish),
    Stage((160,) * 3, (672, 960, 960), (True,) * 3, 2, 5, nn.Hardswish),
)


class SqueezeExcite(nn.Module):
    """Weighs each channel by what a small network makes of all channels' means (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: torch.Tensor = x * self.weigh(x)
        return out


class InvertedBottleneck(nn.Module):
    """1x1 to ``expanded`` channels, depthwise convolution, 1x1 to ``width``; plus the input where shapes allow it."""

    def __init__(self, in_channels: int, expanded: int, width: int, stride: int, stage: Stage, squeeze: bool) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = [
            ("expand", nn.Conv2d(in_channels, expanded, 1, bias=False)),
            ("expand_norm", nn.BatchNorm2d(expanded)),
            ("expand_activation", stage.activation()),
            ("depthwise", _convolution(expanded, expanded, stage.kernel, stride, groups=expanded)),
            ("depthwise_norm", nn.BatchNorm2d(expanded)),
            ("depthwise_activation", stage.activation()),
            *([("squeeze", SqueezeExcite(expanded))] if squeeze else []),
            ("project", nn.Conv2d(expanded, width, 1, bias=False)),
            ("project_norm", nn.BatchNorm2d(width)),
        ]
        self.branch = nn.Sequential(OrderedDict(layers))
        self.shortcut = in_channels == width and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in, H, W) to (B, width, H/stride, W/stride)."""
        out: torch.Tensor = self.branch(x)
        return out + x if self.shortcut else out


class Stem(nn.Sequential):
    """Batch norm of the image, 3x3 convolution, batch norm, activation."""

    def __init__(self) -> None:
        layers: list[tuple[str, nn.Module]] = [
            ("image_norm", nn.BatchNorm2d(3)),
            ("conv", _convolution(3, STEM, 3, 1)),
            ("norm", nn.BatchNorm2d(STEM)),
            ("activation", nn.Hardswish()),
        ]
        super().__init__(OrderedDict(layers))


class Features(nn.Sequential):
    """1x1 convolution, mean over the image, a second 1x1 convolution without batch norm; flat, with dropout."""

    def __init__(self, in_channels: int, dropout: float) -> None:
        layers: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(in_channels, FINAL, 1, bias=False)),
            ("norm", nn.BatchNorm2d(FINAL)),
            ("activation", nn.Hardswish()),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("hidden", nn.Conv2d(FINAL, HIDDEN, 1, bias=False)),
            ("hidden_activation", nn.Hardswish()),
            ("flatten", nn.Flatten()),
        ]
        if dropout > 0:
            layers.append(("dropout", nn.Dropout(dropout)))
        super().__init__(OrderedDict(layers))


def mobilenet_v3_large(num_classes: int, dropout: float) -> nn.Module:
    """Build it for images (B, 3, 32, 32)."""
    features: list[nn.Module] = [Stem()]
    in_channels = STEM
    for stage in STAGES:
        for number, width in enumerate(stage.widths):
            stride = stage.stride if number == 0 else 1
            expanded, squeeze = stage.expanded[number], stage.squeezed[number]
            features.append(InvertedBottleneck(in_channels, expanded, width, stride, stage, squeeze))
            in_channels = width
    features.append(Features(in_channels, dropout))
    return nn.Sequential(
        OrderedDict(features=nn.Sequential(*features), classifier=nn.Linear(HIDDEN, num_classes)),
    )


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
