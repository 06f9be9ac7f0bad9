"""Residual networks for small images (He et al. 2016): one slice per residual block.

The stem is a 3x3 convolution that keeps the image's size, for images of 32x32, or that of ImageNet, which makes it a
quarter as high and wide; each later stage halves it in its first block. The slices are: stem, all residual blocks,
pooling, linear layer.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

# Residual blocks in each stage.
RESNET18 = (2, 2, 2, 2)
RESNET50 = (3, 4, 6, 3)
RESNET20 = (3, 3, 3)
RESNET56 = (9, 9, 9)

IMAGENET_WIDTHS = (64, 128, 256, 512)
CIFAR_WIDTHS = (16, 32, 64)


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size (up to its stride), and its batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class Stem(nn.Sequential):
    """3x3 convolution, batch norm, ReLU: image to the first stage's width."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(*conv_norm(3, out_channels, 3), nn.ReLU())


class ImageNetStem(nn.Sequential):
    """7x7 convolution of stride 2, batch norm, ReLU, 3x3 max pooling of stride 2."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(*conv_norm(3, out_channels, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))


class Residual(nn.Module):
    """``ReLU(branch(x) + shortcut(x))``."""

    def __init__(self, branch: nn.Sequential, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        # The identity where the shapes allow it, else a 1x1 projection (option B of the paper).
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Sequential(*([] if same else conv_norm(in_channels, out_channels, 1, stride)))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in, H, W) to (B, out, H/stride, W/stride)."""
        out: torch.Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return out


def basic_block(in_channels: int, width: int, stride: int) -> Residual:
    """Return a block of two 3x3 convolutions."""
    branch = nn.Sequential(*conv_norm(in_channels, width, 3, stride), nn.ReLU(), *conv_norm(width, width, 3))
    return Residual(branch, in_channels, width, stride)


def bottleneck(in_channels: int, width: int, stride: int) -> Residual:
    """Return a block of 1x1, 3x3 and 1x1 convolutions that ends four times as wide as ``width``.

    The stride sits in the 3x3 convolution, as in torchvision, and not in the first 1x1 one as in the paper.
    """
    branch = nn.Sequential(
        *conv_norm(in_channels, width, 1),
        nn.ReLU(),
        *conv_norm(width, width, 3, stride),
        nn.ReLU(),
        *conv_norm(width, 4 * width, 1),
    )
    return Residual(branch, in_channels, 4 * width, stride)


class Pooling(nn.Sequential):
    """Average over the image, flat features and, where asked for, dropout."""

    def __init__(self, dropout: float) -> None:
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers)


def basic_resnet(stages: Sequence[int], widths: Sequence[int], num_classes: int, dropout: float) -> nn.Module:
    """Build a ResNet of basic blocks: ``stages[i]`` blocks of ``widths[i]`` channels in stage ``i``."""
    features: list[nn.Module] = [Stem(widths[0])]
    in_channels = widths[0]
    for stage, (blocks, width) in enumerate(zip(stages, widths, strict=True)):
        for block in range(blocks):
            features.append(basic_block(in_channels, width, _stride(stage, block)))
            in_channels = width
    return _assemble(features, in_channels, num_classes, dropout)


def bottleneck_resnet(
    stages: Sequence[int],
    widths: Sequence[int],
    num_classes: int,
    dropout: float,
    stem: Callable[[int], nn.Module] = Stem,
) -> nn.Module:
    """Build a ResNet of bottlenecks: ``stages[i]`` blocks of inner width ``widths[i]`` in stage ``i``."""
    features: list[nn.Module] = [stem(widths[0])]
    in_channels = widths[0]
    for stage, (blocks, width) in enumerate(zip(stages, widths, strict=True)):
        for block in range(blocks):
            features.append(bottleneck(in_channels, width, _stride(stage, block)))
            in_channels = 4 * width
    return _assemble(features, in_channels, num_classes, dropout)


def _stride(stage: int, block: int) -> int:
    return 2 if stage > 0 and block == 0 else 1


def _assemble(features: list[nn.Module], in_features: int, num_classes: int, dropout: float) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            pooling=Pooling(dropout),
            classifier=nn.Linear(in_features, num_classes),
        )
    )
