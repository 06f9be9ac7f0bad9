"""A model that was chosen by its name: how it is built, what it takes, and whether it classifies images."""

from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Any, NamedTuple

from torch import nn

from common.errors import UsageError
from common.models.inputs import Images, Inputs, Shape


class Choice(NamedTuple):
    """A model that was chosen, by whatever kind of name."""

    name: str
    """As jobs call it."""
    build: Callable[..., nn.Module]
    """Called with the number of classes, and ``dropout=``."""
    inputs: Inputs
    classifies: bool = True
    """Whether it maps images (B, C, H, W) to logits (B, classes): training jobs take no other."""

    @property
    def input_shape(self) -> Shape:
        """Channels, height and width of one image.

        Raises:
            UsageError: this is no image classifier.
        """
        return self.require_classifier().shape

    def require_classifier(self) -> Images:
        """What it takes, where it can be trained by the jobs that there are.

        Raises:
            UsageError: this is no image classifier.
        """
        if not self.classifies or not isinstance(self.inputs, Images):
            raise UsageError(
                f"{self.name} is no image classifier; training takes only those, python -m common.partition any model"
            )
        return self.inputs

    def example(self, batch_size: int, shape: Shape | None = None) -> tuple[Any, ...]:
        """Random inputs by position, of the model's own size or of another ``shape`` of image."""
        return (self.inputs if shape is None else self.inputs.resized(shape)).example(batch_size)


def unknown(what: str, name: str, known: Collection[str], where: str) -> UsageError:
    """The error about a name that a library does not have: the nearest three, and where all of them stand."""
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.0)
    return UsageError(f"{what} {name!r}; the nearest are {', '.join(close)}; {where}")
