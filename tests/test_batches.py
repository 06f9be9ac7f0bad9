"""Batches depend on (seed, epoch) alone, whoever loads them, and leave the global random state alone."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from common.datasets.augment import PADDING, cropped_and_mirrored
from common.datasets.batches import Batch, Batches
from common.datasets.images import DataSet, Images, ImageSplit
from common.datasets.synthetic import make_synthetic


def images(count: int) -> Images:
    return np.random.default_rng(0).integers(256, size=(count, 8, 8, 3), dtype=np.uint8)


def small(train: int = 10, *, augment: bool = True) -> DataSet:
    """Make a data set whose labels are the positions of the images."""
    splits = [ImageSplit(images(count), np.arange(count, dtype=np.int64)) for count in (train, 7)]
    return DataSet("small", train, splits[0], splits[1], (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), augment)


def test_a_crop_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    source = images(200)

    moved = cropped_and_mirrored(source, np.random.default_rng(0))

    padded = np.pad(source, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    seen = set()
    for before, after in zip(padded, moved, strict=True):
        places = {
            (top, left, step)
            for top in range(2 * PADDING + 1)
            for left in range(2 * PADDING + 1)
            for step in (1, -1)
            if np.array_equal(before[top : top + 8, left : left + 8][:, ::step], after)
        }
        assert places
        seen |= places
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(2 * PADDING + 1))
    assert {step for _, _, step in seen} == {1, -1}


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.ids, b.ids) and torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


def test_evaluation_keeps_the_order_and_normalises() -> None:
    data = small()

    batches = list(Batches(data.test, data, 3, seed=0, training=False).epoch(4))

    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(7))
    inputs = torch.cat([batch.inputs for batch in batches])
    expected = (torch.from_numpy(data.test.images) / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    torch.testing.assert_close(inputs, expected.permute(0, 3, 1, 2).contiguous())
    assert all(batch.inputs.is_contiguous() and batch.inputs.dtype == torch.float32 for batch in batches)
    assert all(batch.labels.dtype == batch.ids.dtype == torch.int64 for batch in batches)


def test_training_sees_every_image_once_in_a_new_order() -> None:
    data = small(100)
    batches = Batches(data.train, data, 32, seed=0, training=True)

    orders = [torch.cat([batch.ids for batch in batches.epoch(epoch)]).tolist() for epoch in (0, 1)]

    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[0] != orders[1]
    assert all(torch.equal(batch.labels, batch.ids) for batch in batches.epoch(0))


def test_augmentation_changes_with_the_epoch_and_only_where_wanted() -> None:
    def first_image(data: DataSet, epoch: int) -> torch.Tensor:
        batch = next(Batches(data.train, data, 10, seed=0, training=True).epoch(epoch))
        return batch.inputs[batch.ids.argmin()]

    augmented, plain = small(), small(augment=False)
    assert not torch.equal(first_image(augmented, 0), first_image(augmented, 1))
    assert torch.equal(first_image(plain, 0), first_image(plain, 1))


@pytest.mark.parametrize(
    ("samples", "batch_size", "training", "sizes"),
    [
        (10, 5, True, [5, 5]),
        (12, 5, True, [5, 5, 2]),
        (11, 5, True, [5, 5]),  # a last sample on its own cannot train a batch norm
        (11, 5, False, [5, 5, 1]),
        (3, 5, True, [3]),
        (3, 1, True, [1, 1, 1]),
    ],
)
def test_the_short_batch(samples: int, batch_size: int, training: bool, sizes: list[int]) -> None:
    data = small(samples)
    batches = Batches(data.train, data, batch_size, seed=0, training=training)

    assert [len(batch.ids) for batch in batches.epoch(0)] == sizes
    assert len(batches) == len(sizes)


def test_seed_and_epoch_fix_the_batches() -> None:
    data = small()

    def epoch(seed: int, number: int) -> list[Batch]:
        return list(Batches(data.train, data, 4, seed=seed, training=True).epoch(number))

    assert same(epoch(1, 2), epoch(1, 2))
    assert not same(epoch(1, 2), epoch(1, 3))
    assert not same(epoch(1, 2), epoch(2, 2))


ignore_few_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.slow
@ignore_few_cores
def test_workers_change_nothing() -> None:
    data = small(50)
    alone, helped = (Batches(data.train, data, 8, seed=1, training=True, workers=count) for count in (0, 2))

    for number in range(2):
        assert same(list(alone.epoch(number)), list(helped.epoch(number)))


@ignore_few_cores
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_global_random_state_is_left_alone(workers: int) -> None:
    states: list[Callable[[], Any]] = [
        lambda: torch.get_rng_state().tolist(),
        lambda: repr(np.random.get_state()),
        random.getstate,
    ]
    before = [state() for state in states]

    data = make_synthetic(10, (3, 8, 8), seed=1)
    data = replace(data, augment=True)
    list(Batches(data.train, data, 512, seed=1, training=True, workers=workers).epoch(0))

    assert [state() for state in states] == before


@pytest.mark.slow
@ignore_few_cores
def test_an_epoch_may_be_left_early() -> None:
    data = small(50)
    epoch = Batches(data.train, data, 8, seed=1, training=True, workers=2).epoch(0)

    assert len(next(epoch).ids) == 8
    del epoch
