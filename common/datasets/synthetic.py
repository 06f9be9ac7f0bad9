"""Made-up images and texts that a network can learn: a coarse pattern per class under noise, words of a class."""

import numpy as np
import numpy.typing as npt

from common.datasets.images import DataSet, Images, ImageSplit, channel_statistics
from common.datasets.texts import FIRST_WORD, START, TextSet, TextSplit, padded
from common.errors import DataError

Words = npt.NDArray[np.int64]

TRAIN_IMAGES = 2048
TEST_IMAGES = 512
TRAIN_TEXTS = 1024
TEST_TEXTS = 256
_WORDS = 1000  # that texts are made of, of the model's vocabulary
_OWN_WORDS = 20  # that texts of a class have more of
_OWN_SHARE = 0.3
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


def make_synthetic_texts(num_classes: int, length: int, vocabulary: int, seed: int) -> TextSet:
    """Return texts of random words, of which some are commoner in texts of a class; the seed fixes them all.

    Raises:
        DataError: the vocabulary is too small for so many classes.
    """
    words = min(_WORDS, vocabulary - FIRST_WORD)
    if words < 2 * num_classes or length < 2:
        raise DataError(f"synthetic: {num_classes} classes do not fit into {vocabulary} words and texts of {length}")
    random = np.random.default_rng(seed)
    count = min(_OWN_WORDS, words // num_classes)
    own = random.permutation(words)[: num_classes * count].reshape(num_classes, count)
    train, test = (_texts(own, words, length, number, random) for number in (TRAIN_TEXTS, TEST_TEXTS))
    return TextSet("synthetic", num_classes, train, test)


def _texts(own: Words, words: int, length: int, count: int, random: np.random.Generator) -> TextSplit:
    labels = random.permutation(np.arange(count) % len(own)).astype(np.int64)
    drawn = random.integers(words, size=(count, length - 1))
    special = own[labels[:, np.newaxis], random.integers(own.shape[1], size=drawn.shape)]
    chosen = FIRST_WORD + np.where(random.random(drawn.shape) < _OWN_SHARE, special, drawn)
    ends = random.integers(length // 2, length, size=count)
    return TextSplit(padded(([START, *row[:end]] for row, end in zip(chosen, ends, strict=True)), length), labels)
