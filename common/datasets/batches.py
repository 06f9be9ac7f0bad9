"""Batches of a data set, in an order and with augmentation that (seed, epoch) fix alone.

Shapes: B samples in a batch, C channels, H height, W width, T words of a text.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from common.datasets.images import Labels

_WORKER_TIMEOUT_S = 120.0


class Targets(Protocol):
    """What the loss compares with, by sample."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, ids: Labels, /) -> npt.NDArray[Any]:
        """Of some samples, in memory of its own."""


class Split(Protocol):
    """One part of a data set, of images, texts or poses."""

    @property
    def labels(self) -> Targets:
        """int64 (N,), the class of each sample, counted from 0; or images (N, C, H, W) that are to be generated."""


class Data(Protocol):
    """A data set, of images, texts or poses."""

    @property
    def name(self) -> str:
        """As it was asked for."""

    @property
    def train(self) -> Split:
        """What models are trained on."""

    @property
    def test(self) -> Split:
        """What they are tested on."""

    @property
    def augment(self) -> bool:
        """Whether training samples are changed at random."""

    def inputs(self, split: Any, ids: Labels, random: np.random.Generator | None) -> npt.NDArray[Any]:
        """Some samples of one of its splits as the model takes them; ``random`` for training."""


@dataclass(frozen=True)
class Batch:
    """Samples and labels for one step."""

    ids: torch.Tensor
    """int64 (B,), where each sample stands in its split."""
    inputs: torch.Tensor
    """float32 (B, C, H, W), normalised; or int64 (B, T), numbers of words; or float32 (B, P), poses. Contiguous."""
    labels: torch.Tensor
    """int64 (B,); of poses, their images, float32 (B, C, H, W)."""


class Batches:
    """The batches of one split, epoch after epoch.

    Training shuffles and, where the data set says so, augments; evaluation keeps the split's order. Nothing
    reads or moves the global random state of torch, numpy or Python.

    Args:
        split: ``dataset.train`` or ``dataset.test``.
        dataset: whose split it is; says how to make batches of it.
        batch_size: samples in all batches but the last.
        seed: fixes the order and the augmentation, together with the epoch's number.
        training: whether these batches train the model.
        workers: processes that load ahead; 0 loads in the calling thread. The batches are the same.
    """

    def __init__(
        self,
        split: Split,
        dataset: Data,
        batch_size: int,
        seed: int,
        training: bool,
        workers: int = 0,
    ) -> None:
        self._split = split
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._training = training
        self._workers = workers

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        count = math.ceil(len(self._split.labels) / self._batch_size)
        # Batch normalisation cannot train on a single sample: its variance is zero.
        alone = len(self._split.labels) % self._batch_size == 1 and self._batch_size > 1
        return count - 1 if alone and self._training else count

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch ``number``, counted from 0, from batch ``first`` on."""
        source = _Epoch(self, number, self._order(number))
        if self._workers == 0:
            yield from map(source.__getitem__, range(first, len(self)))
            return
        yield from DataLoader(
            source,
            batch_size=None,  # the source's items are batches already
            sampler=range(first, len(self)),
            num_workers=self._workers,
            collate_fn=_unchanged,
            timeout=_WORKER_TIMEOUT_S,
            generator=torch.Generator().manual_seed(self._seed),  # else the global one is moved
        )

    def load(self, epoch: int, number: int, order: Labels) -> Batch:
        """Make batch ``number`` of an epoch whose samples come in ``order``."""
        ids = order[number * self._batch_size : (number + 1) * self._batch_size]
        inputs = self._dataset.inputs(self._split, ids, self._random(epoch, number + 1) if self._training else None)
        labels = self._split.labels[ids]
        return Batch(torch.from_numpy(ids), torch.from_numpy(inputs), torch.from_numpy(labels))

    def _order(self, epoch: int) -> Labels:
        count = len(self._split.labels)
        return self._random(epoch, 0).permutation(count) if self._training else np.arange(count)

    def _random(self, epoch: int, stream: int) -> np.random.Generator:
        # Stream 0 orders the epoch, stream n + 1 augments batch n. numpy pads short seeds with zeros, so
        # (seed, epoch) alone would be the same stream as (seed, epoch, 0).
        return np.random.default_rng((self._seed, epoch, stream))


class _Epoch(Dataset[Batch]):
    """One epoch as torch's loader wants it: a map from a batch's number to the batch."""

    def __init__(self, batches: Batches, number: int, order: Labels) -> None:
        self._batches = batches
        self._number = number
        self._order = order

    def __getitem__(self, index: int) -> Batch:
        return self._batches.load(self._number, index, self._order)


def _unchanged(batch: Any) -> Any:
    return batch
