"""A VGG of a fortieth of VGG11's work, so that one core trains it often: ``--model benchmarks/accuracy_vgg.py:small``.

Block inputs and outputs, B x C x H x W: 3,32,32 - 16,16,16 - 32,8,8 - 64,4,4 - 128,2,2 - classes.
"""

from collections import OrderedDict

from torch import nn

from common.models.vgg import ConvBlock

WIDTHS = (16, 32, 64, 128)


def small(num_classes: int) -> nn.Module:
    """Four blocks of convolution, batch norm, ReLU and pooling, and a linear layer."""
    pairs = zip((3, *WIDTHS), WIDTHS, strict=False)
    features = nn.Sequential(*(ConvBlock(before, width, pool=True) for before, width in pairs))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4 * WIDTHS[-1], num_classes))
    return nn.Sequential(OrderedDict(features=features, classifier=classifier))
