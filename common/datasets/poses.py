"""Images with the poses that they show: which object, from where it is seen.

Shapes: N samples, P = 17 numbers of a pose, C channels, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.datasets.batches import Targets
from common.datasets.images import Images, Labels

POSE = 17
Poses = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Views:
    """Who is seen from where."""

    numbers: Labels
    """int64 (N,), which object, counted from 0."""
    theta: npt.NDArray[np.float64]
    """(N,) angle around the object, in degrees."""
    phi: npt.NDArray[np.float64]
    """(N,) angle above the ground, in degrees."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, ids: Labels) -> "Views":
        return Views(self.numbers[ids], self.theta[ids], self.phi[ids])

    @property
    def poses(self) -> Poses:
        """float32 (N, P): number, sin and cos of theta, sin and cos of phi, a transform that changes nothing."""
        theta, phi = np.radians(self.theta), np.radians(self.phi)
        columns = (self.numbers, np.sin(theta), np.cos(theta), np.sin(phi), np.cos(phi))
        return np.concatenate([np.stack(columns, 1), np.ones((len(self), POSE - len(columns)))], 1).astype(np.float32)


@dataclass(frozen=True)
class Pixels:
    """Images in memory, as what the loss compares with."""

    images: Images
    """uint8 (N, H, W, C)."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, ids: Labels, /) -> npt.NDArray[np.float32]:
        """float32 (B, C, H, W), 0 to 1."""
        chosen: npt.NDArray[np.float32] = np.ascontiguousarray(self.images[ids].transpose(0, 3, 1, 2)) / np.float32(255)
        return chosen


@dataclass(frozen=True)
class PoseSplit:
    """One part of a data set: poses and their images, aligned by index."""

    views: Views
    labels: Targets
    """Images, float32 (B, C, H, W) of some samples."""


@dataclass(frozen=True)
class PoseSet:
    """A data set for training and testing a generator."""

    name: str
    objects: int
    """How many different ones it shows."""
    train: PoseSplit
    test: PoseSplit
    augment: bool = False

    def inputs(self, split: PoseSplit, ids: Labels, random: np.random.Generator | None) -> Poses:
        """float32 (B, P): the poses of some samples."""
        return split.views[ids].poses
