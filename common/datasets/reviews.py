"""Texts of a user's own in CSV files, asked for as ``csv:FILE`` or ``csv:TRAIN,TEST``.

A file has a header with ``text`` and ``label`` (or the names that are common for these), UTF-8. Labels are whole
numbers counted from 0, or names of classes, numbered in their alphabetical order. Of a single file a fifth is held out.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.datasets.classes import require_classes
from common.datasets.holdout import held_out
from common.datasets.images import Labels
from common.datasets.texts import TextSet, TextSplit, checked_texts, padded
from common.datasets.utf8 import read_utf8
from common.datasets.vocabulary import Vocabulary, words_of
from common.errors import DataError

PREFIX = "csv:"
_TEXT = ("text", "review", "sentence")
_LABEL = ("label", "sentiment", "class")
_DIGITS = 10  # labels of more are no numbers of classes


class Rows(NamedTuple):
    """What a file holds."""

    texts: list[str]
    labels: list[str]


def load_reviews(name: str, num_classes: int, *, length: int, vocabulary: int) -> TextSet:
    """Read one file or two; the vocabulary is that of the training texts.

    Args:
        name: of the data set, with its prefix.
        num_classes: that the model tells apart.
        length: words of a text.
        vocabulary: numbers of words are below it.

    Raises:
        DataError: a file is missing, is no such CSV file, or does not fit the job.
    """
    train_path, *test_path = (Path(each).expanduser() for each in name.removeprefix(PREFIX).split(","))
    if len(test_path) > 1:
        raise DataError(f"{name} names {1 + len(test_path)} files; name one, or one to train on and one to test on")
    train = read_rows(train_path)
    if test_path:
        test = read_rows(test_path[0])
        labels = _numbered(train.labels + test.labels, [train_path] * len(train.labels) + test_path * len(test.labels))
        in_test = np.arange(len(labels)) >= len(train.labels)
    else:
        test = Rows([], [])
        labels = _numbered(train.labels, [train_path] * len(train.labels))
        in_test = held_out(labels)
    require_classes(name, int(labels.max()) + 1, num_classes)
    texts = [words_of(text) for text in train.texts + test.texts]
    numbers = Vocabulary((text for text, held in zip(texts, in_test, strict=True) if not held), vocabulary)
    tokens = padded((numbers.numbers(text) for text in texts), length)
    splits = (TextSplit(tokens[chosen], labels[chosen]) for chosen in (~in_test, in_test))
    return checked_texts(TextSet(name, num_classes, *splits), vocabulary)


def read_rows(path: Path) -> Rows:
    """The texts and labels of a file.

    Raises:
        DataError: it is missing, is not UTF-8, or has not the columns.
    """
    try:
        lines = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True)
        header = next(lines, [])
        text, label = _column(path, header, _TEXT), _column(path, header, _LABEL)
        rows = Rows([], [])
        for row in lines:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}: line {lines.line_num} has {len(row)} columns, the header {len(header)}: "
                    'a text with commas in it must stand in "quotation marks"'
                )
            rows.texts.append(row[text])
            rows.labels.append(row[label].strip())
    except csv.Error as error:
        raise DataError(
            f"{path} is no CSV file: line {lines.line_num}: {error}; a quotation mark that is open there must be "
            "closed, and one within a text be doubled"
        ) from error
    if not rows.texts:
        raise DataError(f"{path} has a header and no texts: put a line for each text below it, as data/README.md shows")
    return rows


def _decoded(path: Path) -> str:
    try:
        return read_utf8(path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path.absolute()}; name one that is there, as --dataset csv:FILE") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> int:
    found = [name.strip().lower() for name in header]
    for name in names:
        if name in found:
            return found.index(name)
    raise DataError(
        f"{path} has no column {names[0]}: its first line is {','.join(header)[:80]!r}, and must name the columns, "
        f"{_TEXT[0]} and {_LABEL[0]}"
    )


def _numbered(labels: Sequence[str], paths: Sequence[Path]) -> Labels:
    """Classes as numbers; names of classes in their order. Where some are numbers and some are not, one is wrong."""
    numeric = [label.isascii() and label.isdecimal() and len(label) < _DIGITS for label in labels]
    if all(numeric):
        return np.array([int(label) for label in labels], np.int64)
    if any(numeric) or not all(labels):
        wrong = next(i for i, label in enumerate(labels) if not label or (any(numeric) and not numeric[i]))
        raise DataError(
            f"{paths[wrong]}: a label is {labels[wrong]!r}; labels are whole numbers counted from 0, or all are names"
        )
    classes = {name: number for number, name in enumerate(sorted(set(labels)))}
    return np.array([classes[label] for label in labels], np.int64)
