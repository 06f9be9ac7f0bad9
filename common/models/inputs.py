"""What models take: each kind of input makes a random example of itself.

B batch, C channels, H height, W width, T time: frames of a video or words of a text.
"""

from typing import Any, NamedTuple, Protocol

import torch

from common.errors import UsageError

Shape = tuple[int, int, int]
"""Channels, height and width of one image."""


class Inputs(Protocol):
    """The inputs of a model by position, of any number of samples."""

    def example(self, batch_size: int) -> tuple[Any, ...]:
        """Drawn from torch's global generator."""

    def resized(self, shape: Shape) -> "Inputs":
        """The same with images of another size.

        Raises:
            UsageError: these are no images.
        """


class Images(NamedTuple):
    """A batch of images (B, C, H, W)."""

    shape: Shape

    def example(self, batch_size: int) -> tuple[Any, ...]:
        return (torch.rand(batch_size, *self.shape),)

    def resized(self, shape: Shape) -> "Images":
        return Images(shape)


class ImageList(NamedTuple):
    """A list of B images (C, H, W), as detectors take it."""

    shape: Shape

    def example(self, batch_size: int) -> tuple[Any, ...]:
        return ([torch.rand(*self.shape) for _ in range(batch_size)],)

    def resized(self, shape: Shape) -> "ImageList":
        return ImageList(shape)


class ImagePairs(NamedTuple):
    """Two batches of images (B, C, H, W): optical flow goes from the first to the second."""

    shape: Shape

    def example(self, batch_size: int) -> tuple[Any, ...]:
        return (torch.rand(batch_size, *self.shape), torch.rand(batch_size, *self.shape))

    def resized(self, shape: Shape) -> "ImagePairs":
        return ImagePairs(shape)


class Videos(NamedTuple):
    """A batch of videos (B, C, T, H, W)."""

    shape: Shape
    frames: int = 16

    def example(self, batch_size: int) -> tuple[Any, ...]:
        C, H, W = self.shape
        return (torch.rand(batch_size, C, self.frames, H, W),)

    def resized(self, shape: Shape) -> "Videos":
        return Videos(shape, self.frames)


class Tokens(NamedTuple):
    """A batch of texts as numbers of words (B, T), int64."""

    vocabulary: int
    special: frozenset[int] = frozenset()
    """Numbers that are no words: padding, beginning, end."""
    last: int | None = None
    """The number that ends a text; some models look for it."""
    length: int = 16

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return (self.length,)

    def example(self, batch_size: int) -> tuple[Any, ...]:
        words = torch.randint(self.vocabulary, (batch_size, self.length))
        plain = next((each for each in range(self.vocabulary) if each not in self.special), 0)
        for each in self.special:
            words[words == each] = plain
        if self.last is not None:
            words[:, -1] = self.last
        return (words,)

    def resized(self, shape: Shape) -> "Tokens":
        raise UsageError(f"--input is {','.join(map(str, shape))}, the size of an image, but this model takes words")


class Arrays(NamedTuple):
    """One batch or several of arrays as a file describes them, each (B, ...)."""

    shapes: tuple[tuple[int | None, ...], ...]
    """Of one sample; None where the file leaves a size open."""
    whole_numbers: tuple[bool, ...]
    """For each: whether its elements are int64 and not float32."""

    def example(self, batch_size: int) -> tuple[Any, ...]:
        return tuple(map(self._one, self.shapes, self.whole_numbers, [batch_size] * len(self.shapes)))

    def resized(self, shape: Shape) -> "Arrays":
        if len(self.shapes) != 1 or len(self.shapes[0]) != 3:
            raise UsageError(f"--input is {','.join(map(str, shape))}, but this model takes {self._described()}")
        return Arrays((shape,), self.whole_numbers)

    def _one(self, shape: tuple[int | None, ...], whole: bool, batch_size: int) -> torch.Tensor:
        sizes = [size for size in shape if size is not None]
        if len(sizes) != len(shape):
            raise UsageError(f"this model takes {self._described()} of one sample: name an --input of three sizes")
        return torch.randint(2, (batch_size, *sizes)) if whole else torch.rand(batch_size, *sizes)

    def _described(self) -> str:
        return " and ".join("x".join("any" if n is None else str(n) for n in shape) or "1" for shape in self.shapes)
