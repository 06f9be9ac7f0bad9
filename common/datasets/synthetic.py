"""Made-up images that a network can learn: a coarse pattern per class under noise."""

import numpy as np

from common.datasets.images import DataSet, Images, ImageSplit, channel_statistics

TRAIN_IMAGES = 2048
TEST_IMAGES = 512
_GRID = 4  # a pattern has this many patches each way, so that it outlives pooling
_LEVELS = 128  # pattern and noise each count 0..127, so that their sum stays below 256


def make_synthetic(num_classes: int, input_shape: tuple[int, int, int], seed: int) -> DataSet:
    """Return random patterns, one per class, and noisy images of them; the seed fixes them all."""
    channels, height, width = input_shape
    random = np.random.default_rng(seed)
    patches = random.integers(_LEVELS, size=(num_classes, _GRID, _GRID, channels), dtype=np.uint8)
    rows, columns = np.arange(height) * _GRID // height, np.arange(width) * _GRID // width
    patterns = patches[:, rows[:, np.newaxis], columns]
    train = _noisy(patterns, TRAIN_IMAGES, random)
    mean, std = channel_statistics(train.images)
    test = _noisy(patterns, TEST_IMAGES, random)
    return DataSet("synthetic", num_classes, train, test, mean, std, augment=False)


def _noisy(patterns: Images, count: int, random: np.random.Generator) -> ImageSplit:
    labels = random.permutation(np.arange(count) % len(patterns)).astype(np.int64)
    noise = random.integers(_LEVELS, size=(count, *patterns.shape[1:]), dtype=np.uint8)
    return ImageSplit(patterns[labels] + noise, labels)
