"""scikit-learn's 1797 handwritten digits: real images that need no download."""

import numpy as np

from common.datasets.images import DataSet, ImageSplit, Labels, channel_statistics

_TEST_SHARE = 0.2
_BRIGHTEST = 16  # the published images count 0..16


def load_digits(num_classes: int) -> DataSet:
    """Return the 8x8 grey images, with a fifth of every class as the test split.

    The split is fixed: it does not change with the run's seed, so that runs can be compared.
    """
    from sklearn.datasets import load_digits as read  # noqa: PLC0415  costs a second, for this data set only

    published = read()
    images = np.rint(published.images * (255 / _BRIGHTEST)).astype(np.uint8)[..., np.newaxis]
    labels = published.target.astype(np.int64)
    in_test = _stratified(labels)
    train = ImageSplit(images[~in_test], labels[~in_test])
    mean, std = channel_statistics(train.images)
    test = ImageSplit(images[in_test], labels[in_test])
    return DataSet("digits", num_classes, train, test, mean, std, augment=False)


def _stratified(labels: Labels) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Mark the last fifth of each class, after a shuffle that is always the same."""
    random = np.random.default_rng(0)
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        chosen[members[-round(_TEST_SHARE * len(members)) :]] = True
    return chosen
