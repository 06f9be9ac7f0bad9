"""VGG for 32x32 images (Simonyan & Zisserman 2015, table 1): one slice per weight layer.

Every convolution stands with its batch norm and ReLU in one block, and the last block of a stage also halves
the image, so a cut after a stage sends the smallest tensor. Block inputs and outputs, B x C x H x W:

    stage   1         2         3        4        5        dense 1      dense 2   linear
    out     64,16,16  128,8,8   256,4,4  512,2,2  512,1,1  4096         4096      classes
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

# Convolutions in each of the five stages: configurations A, D and E of the paper's table 1.
VGG11 = (1, 1, 2, 2, 2)
VGG16 = (2, 2, 3, 3, 3)
VGG19 = (2, 2, 4, 4, 4)

WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096


class ConvBlock(nn.Sequential):
    """3x3 convolution, batch norm, ReLU and, at the end of a stage, 2x2 max pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, pool: bool) -> None:
        layers: list[tuple[str, nn.Module]] = [
            # Batch norm has a bias of its own.
            ("conv", nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)),
            ("norm", nn.BatchNorm2d(out_channels)),
            ("relu", nn.ReLU()),
        ]
        if pool:
            layers.append(("pool", nn.MaxPool2d(2)))
        super().__init__(OrderedDict(layers))


class DenseBlock(nn.Sequential):
    """Linear layer on flat features, batch norm, ReLU and, where asked for, dropout."""

    def __init__(self, in_features: int, out_features: int, *, dropout: float) -> None:
        layers: list[tuple[str, nn.Module]] = [
            ("flatten", nn.Flatten()),
            ("linear", nn.Linear(in_features, out_features)),
            ("norm", nn.BatchNorm1d(out_features)),
            ("relu", nn.ReLU()),
        ]
        if dropout > 0:
            layers.append(("dropout", nn.Dropout(dropout)))
        super().__init__(OrderedDict(layers))


def vgg(stages: Sequence[int], num_classes: int, dropout: float) -> nn.Module:
    """Build a VGG with ``stages[i]`` convolutions in stage ``i``, on images (B, 3, 32, 32)."""
    features: list[nn.Module] = []
    in_channels = 3
    for convolutions, width in zip(stages, WIDTHS, strict=True):
        for number in range(convolutions):
            features.append(ConvBlock(in_channels, width, pool=number == convolutions - 1))
            in_channels = width
    classifier = [
        DenseBlock(in_channels, HIDDEN, dropout=dropout),
        DenseBlock(HIDDEN, HIDDEN, dropout=dropout),
        nn.Linear(HIDDEN, num_classes),
    ]
    return nn.Sequential(OrderedDict(features=nn.Sequential(*features), classifier=nn.Sequential(*classifier)))
