"""The weights that every model starts from, the same on both machines for the same seed."""

import math

from torch import nn


def initialise(model: nn.Module) -> None:
    """Draw the weights of ``model`` in place from torch's global generator.

    Convolutions follow N(0, sqrt(2 / (k*k*out))), batch norms start as the identity, linear layers follow
    Kaiming's normal rule (He et al. 2015, eq. 10) with zero bias.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (height * width * module.out_channels)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
