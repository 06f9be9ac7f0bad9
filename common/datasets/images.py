"""Labelled images as the rest of Tandem sees them: checked, and of the shape that the model takes.

Shapes: N images, H height, W width, C channels. Images are uint8 arrays (N, H, W, C) with values 0..255.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from common.datasets.augment import cropped_and_mirrored
from common.errors import DataError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_CHUNK = 512  # images scaled or summed at a time, which bounds the float copies
_SMALLEST_STD = 1 / 255  # one grey level: a constant channel must not be divided by zero


@dataclass(frozen=True)
class ImageSplit:
    """One part of a data set."""

    images: Images
    """uint8 (N, H, W, C)."""
    labels: Labels
    """int64 (N,), the class of each image, counted from 0."""


@dataclass(frozen=True)
class DataSet:
    """A data set for training and testing, with what is needed to normalise it."""

    name: str
    num_classes: int
    train: ImageSplit
    test: ImageSplit
    mean: tuple[float, ...]
    """Per channel, of values scaled to 0..1."""
    std: tuple[float, ...]
    """Per channel, of values scaled to 0..1."""
    augment: bool
    """Whether training images are changed at random."""
    change: Callable[[Images, np.random.Generator], Images] = cropped_and_mirrored
    """How: images (B, H, W, C) to images of the same shape."""

    def inputs(self, split: ImageSplit, ids: Labels, random: np.random.Generator | None) -> npt.NDArray[np.float32]:
        """A batch as the model takes it: normalised, channels first (B, C, H, W).

        Args:
            split: which of the two.
            ids: of the images in it.
            random: for training; evaluation changes nothing.
        """
        images = split.images[ids]
        if self.augment and random is not None:
            images = self.change(images, random)
        # (x / 255 - mean) / std as one multiplication and one addition.
        mean, std = np.array(self.mean), np.array(self.std)
        scale = (1 / (255 * std)).astype(np.float32)[:, np.newaxis, np.newaxis]
        shift = (-mean / std).astype(np.float32)[:, np.newaxis, np.newaxis]
        # Channels go first while a value is still one byte; four times faster than at the end.
        inputs: npt.NDArray[np.float32] = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) * scale
        inputs += shift
        return inputs


def checked_split(
    images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], source: str, part: str
) -> ImageSplit:
    """Make a split of arrays that someone else wrote; grey images (N, H, W) get their channel axis.

    Args:
        images: to be uint8 (N, H, W, C) or (N, H, W).
        labels: to be integers (N,).
        source: what to call the data set in an error.
        part: "train" or "test".

    Raises:
        DataError: the arrays are not such images and labels.
    """
    if images.dtype != np.uint8:
        raise DataError(f"{source}: {part} images are {images.dtype}, but must be uint8 with values 0..255")
    if images.ndim not in (3, 4):
        raise DataError(f"{source}: {part} images have shape {images.shape}, but must be (N, H, W, C) or (N, H, W)")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{source}: {part} labels are {labels.dtype}, but must be integers")
    if labels.ndim != 1:
        raise DataError(f"{source}: {part} labels have shape {labels.shape}, but must be (N,)")
    if len(images) != len(labels):
        raise DataError(f"{source}: {len(images)} {part} images but {len(labels)} {part} labels")
    if images.size == 0:
        raise DataError(f"{source}: the {part} images have shape {images.shape}: there is nothing in them")
    images = images[..., np.newaxis] if images.ndim == 3 else images
    return ImageSplit(np.ascontiguousarray(images, np.uint8), labels.astype(np.int64))


def fitted(dataset: DataSet, input_shape: tuple[int, int, int]) -> DataSet:
    """Return the data set with its labels checked and its images as large as the model's ``input_shape``.

    Raises:
        DataError: labels beyond ``num_classes``, channels that do not fit, or too few images.
    """
    _check_labels(dataset)
    if len(dataset.train.labels) < 2:
        raise DataError(f"{dataset.name}: 1 training image, but batch normalisation needs at least 2")
    repeats = input_shape[0] if len(dataset.mean) == 1 else 1
    return replace(
        dataset,
        train=_fit_split(dataset.train, input_shape, dataset.name),
        test=_fit_split(dataset.test, input_shape, dataset.name),
        mean=dataset.mean * repeats,
        std=dataset.std * repeats,
    )


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of values scaled to 0..1."""
    channels = images.shape[-1]
    total, squares = np.zeros(channels), np.zeros(channels)
    for start in range(0, len(images), _CHUNK):
        values = images[start : start + _CHUNK].reshape(-1, channels) / 255
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    count = images.size // channels
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)).clip(min=_SMALLEST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())


def scaled(images: Images, height: int, width: int) -> Images:
    """Resize images: whole-number enlargement repeats pixels, all else is bilinear."""
    if images.shape[1:3] == (height, width):
        return images
    if height % images.shape[1] == 0 and width % images.shape[2] == 0:
        return images.repeat(height // images.shape[1], axis=1).repeat(width // images.shape[2], axis=2)
    resized = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = torch.from_numpy(images[start : start + _CHUNK]).permute(0, 3, 1, 2).float()
        chunk = torch.nn.functional.interpolate(chunk, (height, width), mode="bilinear", antialias=True)
        resized[start : start + _CHUNK] = chunk.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return resized


def _check_labels(dataset: DataSet) -> None:
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        lowest, highest = int(split.labels.min()), int(split.labels.max())
        if lowest < 0:
            raise DataError(f"{dataset.name}: {part} labels go down to {lowest}, but must be counted from 0")
        if highest >= dataset.num_classes:
            raise DataError(
                f"{dataset.name}: {part} labels go up to {highest} but --num_classes is "
                f"{dataset.num_classes}: pass --num_classes {highest + 1}"
            )


def _fit_split(split: ImageSplit, input_shape: tuple[int, int, int], name: str) -> ImageSplit:
    channels, height, width = input_shape
    images = scaled(split.images, height, width)
    found = images.shape[-1]
    if found not in (1, channels):
        raise DataError(f"{name}: images have {found} channels but the model takes {channels}")
    return replace(split, images=images.repeat(channels // found, axis=-1) if found != channels else images)
