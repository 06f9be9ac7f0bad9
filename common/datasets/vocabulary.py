"""From words to numbers: the commonest words of the training texts, in the numbering of Keras's data sets."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from common.datasets.texts import FIRST_WORD, START, UNKNOWN

_WORD = re.compile("[^\\W_]+(?:['\u2019][^\\W_]+)*")  # with an apostrophe in it, straight or not


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; what stands between them counts for nothing."""
    return _WORD.findall(text.lower())


class Vocabulary:
    """Numbers of words by how common they are: 3 is the commonest of ``texts``, 2 all that are too rare.

    Args:
        texts: to count words in.
        size: numbers are below it.
    """

    def __init__(self, texts: Iterable[Sequence[str]], size: int) -> None:
        counts = Counter(word for text in texts for word in text)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        self._numbers = {word: FIRST_WORD + rank for rank, word in enumerate(ranked[: max(0, size - FIRST_WORD)])}

    def numbers(self, words: Iterable[str]) -> list[int]:
        """The text as numbers, with that of its beginning."""
        return [START, *(self._numbers.get(word, UNKNOWN) for word in words)]
