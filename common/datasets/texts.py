"""Labelled texts as the rest of Tandem sees them: numbers of words, checked, all of the length that the model takes.

Shapes: N texts, B of them in a batch, T words of a text. A word's number is below the vocabulary's size; 0 is padding,
1 begins a text, 2 is any word that the vocabulary does not have, as in Keras's data sets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.datasets.images import Labels
from common.errors import DataError

PADDING, START, UNKNOWN = 0, 1, 2
FIRST_WORD = 3

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TextSplit:
    """One part of a data set."""

    tokens: Tokens
    """int32 (N, T)."""
    labels: Labels
    """int64 (N,), the class of each text, counted from 0."""


@dataclass(frozen=True)
class TextSet:
    """A data set of texts for training and testing."""

    name: str
    num_classes: int
    train: TextSplit
    test: TextSplit

    @property
    def augment(self) -> bool:
        """Texts are never changed at random."""
        return False

    def inputs(self, split: TextSplit, ids: Labels, random: np.random.Generator | None) -> npt.NDArray[np.int64]:
        """A batch of texts (B, T) as the model takes it."""
        return split.tokens[ids].astype(np.int64)


def padded(texts: Iterable[Sequence[int]], length: int) -> Tokens:
    """Numbers of words as one array (N, ``length``): longer texts lose their end, shorter ones get padding there."""
    rows = [np.asarray(text[:length], np.int32) for text in texts]
    tokens = np.full((len(rows), length), PADDING, np.int32)
    for row, text in zip(tokens, rows, strict=True):
        row[: len(text)] = text
    return tokens


def checked_texts(dataset: TextSet, vocabulary: int) -> TextSet:
    """The same data set, once it is known to fit the model.

    Args:
        dataset: that was read.
        vocabulary: numbers of words must be below it.

    Raises:
        DataError: labels or words beyond what the model knows, or nothing to train on.
    """
    name = dataset.name
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        if not len(split.labels):
            raise DataError(
                f"{name}: there are no {part} texts: put some there (of a single CSV file a fifth of each class is "
                "held out, so it needs five of one)"
            )
        lowest, highest = int(split.labels.min()), int(split.labels.max())
        if lowest < 0:
            raise DataError(f"{name}: {part} labels go down to {lowest}, but must be counted from 0")
        if highest >= dataset.num_classes:
            raise DataError(
                f"{name}: {part} labels go up to {highest} but --num_classes is {dataset.num_classes}: "
                f"pass --num_classes {highest + 1}"
            )
        words = int(split.tokens.max(initial=0))
        if words >= vocabulary or int(split.tokens.min(initial=0)) < 0:
            raise DataError(
                f"{name}: {part} words have numbers from {split.tokens.min()} to {words}, but the model knows "
                f"{vocabulary}, counted from 0: put {UNKNOWN} (unknown) for the others"
            )
    return dataset
