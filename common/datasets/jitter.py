"""Random crops that are scaled back, mirror images, and random colours: what ImageNet's models are trained with.

Shapes: B images, H height, W width, C channels.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from common.datasets.augment import Images

SCALE = (0.08, 1.0)
"""Share of the image that a crop has."""
RATIO = (3 / 4, 4 / 3)
"""Width of a crop by its height."""
STRENGTH = 0.4
"""Brightness, contrast and saturation are multiplied by 1 - 0.4 to 1 + 0.4."""
HUE = 0.2
"""Hue is turned by up to a fifth of the circle, each way."""
_ATTEMPTS = 10  # to find a crop that fits, as in torchvision's RandomResizedCrop

_Box = tuple[int, int, int, int]


def cropped_and_jittered(images: Images, random: np.random.Generator) -> Images:
    """Crop each image at random and scale it back, mirror every other one, and change the colours, in random order.

    Args:
        images: (B, H, W, C); those of one channel keep their colours.
        random: drawn from.

    Returns:
        New images (B, H, W, C).
    """
    changed = np.empty_like(images)
    for out, pixels in zip(changed, images, strict=True):
        image = _cropped(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels), random)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if image.mode == "RGB":
            image = _jittered(image, random)
        out[...] = np.asarray(image).reshape(out.shape)
    return changed


def _cropped(image: Image.Image, random: np.random.Generator) -> Image.Image:
    return image.resize(image.size, Image.Resampling.BILINEAR, box=_box(*image.size, random))


def _box(width: int, height: int, random: np.random.Generator) -> _Box:
    """Left, top, right and bottom of a crop; the whole image where none fits."""
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def _jittered(image: Image.Image, random: np.random.Generator) -> Image.Image:
    factors = random.uniform(1 - STRENGTH, 1 + STRENGTH, 3)
    turn = random.uniform(-HUE, HUE)
    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda each: ImageEnhance.Brightness(each).enhance(factors[0]),
        lambda each: ImageEnhance.Contrast(each).enhance(factors[1]),
        lambda each: ImageEnhance.Color(each).enhance(factors[2]),
        lambda each: _turned(each, turn),
    ]
    for number in random.permutation(len(changes)):
        image = changes[number](image)
    return image


def _turned(image: Image.Image, turn: float) -> Image.Image:
    """The hue turned by a part of the circle."""
    hue, saturation, value = image.convert("HSV").split()
    moved = np.asarray(hue) + np.uint8(round(turn * 255) % 256)  # uint8 wraps round, as the circle does
    return Image.merge("HSV", (Image.fromarray(moved), saturation, value)).convert("RGB")
