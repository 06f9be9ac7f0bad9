"""scikit-learn's 1797 handwritten digits: real images that need no download."""

import numpy as np

from common.datasets.classes import require_classes
from common.datasets.holdout import held_out
from common.datasets.images import DataSet, ImageSplit, channel_statistics

CLASSES = 10
_BRIGHTEST = 16  # the published images count 0..16


def load_digits(num_classes: int) -> DataSet:
    """Return the 8x8 grey images, with a fifth of every class as the test split.

    The split is fixed: it does not change with the run's seed, so that runs can be compared.

    Raises:
        DataError: the model tells another number of classes apart.
    """
    require_classes("digits", CLASSES, num_classes)
    from sklearn.datasets import load_digits as read  # noqa: PLC0415  costs a second, for this data set only

    published = read()
    images = np.rint(published.images * (255 / _BRIGHTEST)).astype(np.uint8)[..., np.newaxis]
    labels = published.target.astype(np.int64)
    in_test = held_out(labels)
    train = ImageSplit(images[~in_test], labels[~in_test])
    mean, std = channel_statistics(train.images)
    test = ImageSplit(images[in_test], labels[in_test])
    return DataSet("digits", num_classes, train, test, mean, std, augment=False)
