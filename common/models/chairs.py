"""A generator of chairs: from which chair, which view and which transform to its image.

After Dosovitskiy, Springenberg and Brox, *Learning to Generate Chairs with Convolutional Neural Networks* (CVPR 2015),
in the form published with the training system. The view there had sin(phi) twice; here it is (sin theta, cos theta,
sin phi, cos phi).

Shapes: B poses, P = 17 numbers of a pose, S pixels of a side.
"""

import math
import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import ProtocolError, UsageError

POSE = 17
"""Number of the chair, sin and cos of theta, sin and cos of phi, 12 numbers of the transform (1: there is none)."""
SIZES = (32, 64, 128)
NAME = "chairs"
_NAME = re.compile(rf"{NAME}-(\d{{2,3}})-(\d\.?\d{{0,3}})")
_VIEW, _TRANSFORM = slice(1, 5), slice(5, POSE)
_LARGEST_WIDTH = 2.0


class Form(NamedTuple):
    """Which of the generators."""

    image_size: int
    """Pixels of a side; 128 is the published one."""
    width: float
    """Factor of the layers' widths; 1 is the published one."""

    @property
    def name(self) -> str:
        """As jobs call it."""
        return f"{NAME}-{self.image_size}-{self.width:g}"

    def check(self) -> None:
        """Raises UsageError where there is none."""
        if self.image_size not in SIZES:
            raise UsageError(f"--image_size is {self.image_size}; it is {', '.join(map(str, SIZES))}")
        if not 0.01 <= self.width <= _LARGEST_WIDTH or not _NAME.fullmatch(self.name):
            raise UsageError(f"--width is {self.width}; it is a factor from 0.01 to {_LARGEST_WIDTH:g}, such as 0.25")

    @staticmethod
    def named(name: str) -> "Form":
        """The form that a job's model names.

        Raises:
            UsageError: there is none of this name.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise UsageError(f"unknown model {name!r}; generators are called such as {Form(128, 1.0).name}")
        form = Form(int(found[1]), float(found[2]))
        form.check()
        return form


class Dense(nn.Module):
    """A dense layer with its activation."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D')."""
        return self.linear(x).relu()  # type: ignore[no-any-return]


class Embedding(nn.Module):
    """Three inputs, each through two dense layers: (B, P) to (B, 3 D)."""

    def __init__(self, chairs: int, width: int) -> None:
        super().__init__()
        self.chairs = chairs
        self.chair, self.view, self.transform = (
            nn.Sequential(Dense(each, width), Dense(width, width)) for each in (chairs, 4, POSE - 5)
        )

    def forward(self, pose: Tensor) -> Tensor:
        """Which chair as a one-hot vector, as published."""
        chair = nn.functional.one_hot(pose[:, 0].long(), self.chairs).to(pose.dtype)
        return torch.cat([self.chair(chair), self.view(pose[:, _VIEW]), self.transform(pose[:, _TRANSFORM])], 1)


class Plane(nn.Module):
    """A dense layer whose outputs are a small image of many channels."""

    def __init__(self, width: int, channels: int, side: int) -> None:
        super().__init__()
        self.linear, self.form = nn.Linear(width, channels * side * side), (channels, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, C, S/16, S/16)."""
        return self.linear(x).relu().unflatten(1, self.form)  # type: ignore[no-any-return]


class Up(nn.Module):
    """Twice the size: a transposed convolution, with an activation but for the last one."""

    def __init__(self, channels_in: int, channels_out: int, *, last: bool = False) -> None:
        super().__init__()
        self.conv, self._last = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1), last

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2 H, 2 W)."""
        y: Tensor = self.conv(x)
        return y if self._last else y.relu()


class Same(nn.Module):
    """A convolution of 3x3 with its activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return self.conv(x).relu()  # type: ignore[no-any-return]


class Chairs(nn.Module):
    """Poses (B, P) to images (B, 3, S, S), whose values are 0 to 1 where training has succeeded; 11 slices.

    Args:
        chairs: how many there are; a pose's number is below.
        form: size and width.
    """

    def __init__(self, chairs: int, form: Form) -> None:
        super().__init__()
        self.chairs = chairs
        features, hidden = _scaled(512, form.width), _scaled(1024, form.width)
        first, second, third = (_scaled(each, form.width) for each in (256, 92, 48))
        self.slices = nn.Sequential(
            Embedding(chairs, features),
            Dense(3 * features, hidden),
            Dense(hidden, hidden),
            Plane(hidden, first, form.image_size // 16),
            Up(first, first),
            Same(first),
            Up(first, second),
            Same(second),
            Up(second, third),
            Same(third),
            Up(third, 3, last=True),
        )
        self.apply(_initialise)

    def forward(self, pose: Tensor) -> Tensor:
        """Images of poses."""
        image: Tensor = self.slices(pose)
        return image

    def check_inputs(self, pose: Tensor) -> None:
        """Raises ProtocolError where a number is no chair's: on a GPU it would end the program."""
        numbers = pose[:, 0]
        if not bool(((numbers >= 0) & (numbers < self.chairs)).all()):  # not a number is not in between either
            wrong = numbers[~((numbers >= 0) & (numbers < self.chairs))][0].item()
            raise ProtocolError(f"chair number {wrong:g} came; the model knows {self.chairs}, counted from 0")


def _scaled(width: int, factor: float) -> int:
    """A layer's width, in whole fours."""
    return max(4, 4 * round(width * factor / 4))


def _initialise(module: nn.Module) -> None:
    """Kaiming's normal rule with zero bias: by torch's own the image is all but the same for all poses at first."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        inputs = module.weight[0].numel()
        if isinstance(module, nn.ConvTranspose2d):  # each output pixel is reached by a quarter of the kernel
            inputs = module.in_channels * math.prod(module.kernel_size) // math.prod(module.stride)
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / inputs))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
