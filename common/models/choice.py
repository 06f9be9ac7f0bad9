"""A model that was chosen by its name: how it is built, what it takes, and whether it can be trained by a job."""

from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Any, NamedTuple

from torch import nn

from common.errors import UsageError
from common.models.inputs import Images, Inputs, Shape, Tokens


class Choice(NamedTuple):
    """A model that was chosen, by whatever kind of name."""

    name: str
    """As jobs call it."""
    build: Callable[..., nn.Module]
    """Called with the number of classes, and ``dropout=``."""
    inputs: Inputs
    classifies: bool = True
    """Whether it maps images (B, C, H, W) or texts (B, T) to logits (B, classes): training jobs take no other."""
    dropout: float = 0.0
    """Its own probability of dropping a hidden feature, where none is asked for."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample: channels, height and width of an image, or the number of words of a text.

        Raises:
            UsageError: this is no classifier that can be trained.
        """
        return self.require_classifier().shape

    @property
    def vocabulary(self) -> int:
        """How many numbers of words there are, where it takes texts; 0 where it takes images."""
        return self.inputs.vocabulary if isinstance(self.inputs, Tokens) else 0

    def require_classifier(self) -> Images | Tokens:
        """What it takes, where it can be trained by the jobs that there are.

        Raises:
            UsageError: this is no classifier that can be trained.
        """
        if not self.classifies or not isinstance(self.inputs, Images | Tokens):
            raise UsageError(
                f"{self.name} is no image classifier; training takes only those, BILSTM and your own classifiers of "
                "texts; python -m common.partition takes any model"
            )
        return self.inputs

    def example(self, batch_size: int, shape: Shape | None = None) -> tuple[Any, ...]:
        """Random inputs by position, of the model's own size or of another ``shape`` of image."""
        return (self.inputs if shape is None else self.inputs.resized(shape)).example(batch_size)


def unknown(what: str, name: str, known: Collection[str], where: str) -> UsageError:
    """The error about a name that a library does not have: the nearest three, and where all of them stand."""
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.0)
    return UsageError(f"{what} {name!r}; the nearest are {', '.join(close)}; {where}")
