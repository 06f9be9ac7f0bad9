"""Histograms of the weights of each slice, behind each epoch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.tensorboard import SummaryWriter

from common.drawing import LOOKS
from common.errors import UsageError
from common.figures.weights import draw, read_weights
from common.training.weights import WeightsLog
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process
from tests.test_resume import Killed, folder_of, killed_at, values

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]


def test_every_slice_behind_every_epoch(images: str, tmp_path: Path) -> None:
    options = BaseOptions(**values(images, tmp_path, stale_it=1, track_weights=1, track_point=("0,1", "4")))
    run = train_in_process(plan_job(options), options)
    slices = read_weights(run.folder)
    assert sorted(slices) == [0, 1, 4]
    for arrays in slices.values():
        assert arrays["counts"].shape == (2, 100)
        assert list(arrays["moments"][:, 0]) == [0, 1]
        assert np.array_equal(arrays["counts"].sum(1), arrays["moments"][:, 1])
    first = [
        value for name, value in load_file(run.folder / "head.safetensors").items() if name.startswith("features.0")
    ]
    weights = np.concatenate([each.numpy().ravel() for each in first if each.is_floating_point()])
    assert slices[0]["edges"][-1, 0] >= weights.min() - 1e-6
    assert slices[0]["edges"][-1, -1] <= weights.max() + 1e-6
    with LOOKS["screen"].applied() as look:
        figure = draw(look, slices)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["slice 0", "slice 1", "slice 4"]


@pytest.mark.parametrize(("points", "words"), [(("x",), "slices are numbers"), (("99",), "in .* slices here")])
def test_slices_that_are_none(images: str, tmp_path: Path, points: tuple[str, ...], words: str) -> None:
    options = BaseOptions(**values(images, tmp_path, track_weights=1, track_point=points))
    with pytest.raises(UsageError, match=words):
        train_in_process(plan_job(options), options)


def test_a_run_that_goes_on_keeps_its_epochs(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"stale_it": 1, "epochs": 3, "track_weights": 1, "track_point": ("0",)}
    options = BaseOptions(**values(images, tmp_path / "whole", **more))
    whole = read_weights(train_in_process(plan_job(options), options).folder)
    run_dir = tmp_path / "killed"
    options = BaseOptions(**values(images, run_dir, **more))
    plan = plan_job(options)
    with monkeypatch.context() as patch:
        killed_at(9, patch)
        with pytest.raises(Killed):
            train_in_process(plan, options)
    folder = folder_of(run_dir)
    assert len(read_weights(folder)[0]["moments"]) == 2
    going_on = replace(options, resume=folder)
    train_in_process(plan_job(going_on), going_on)
    for kind, rows in read_weights(folder)[0].items():
        assert np.array_equal(rows, whole[0][kind]), kind


def test_what_was_taken_twice_is_there_once(tmp_path: Path) -> None:
    part = torch.nn.Linear(3, 2)
    with SummaryWriter(str(tmp_path)) as board:
        for epochs in ((0, 1, 2), (1, 2, 3)):
            log = WeightsLog(tmp_path, {0: ("weight",)}, lambda: [part])
            for epoch in epochs:
                log.epoch(epoch, board)
    assert list(read_weights(tmp_path)[0]["moments"][:, 0]) == [0, 1, 2, 3]
    (tmp_path / "weights.npz").write_bytes(b"PK\x03\x04 no more than its beginning")
    with pytest.raises(UsageError, match=r"weights.npz cannot be read: .*; move it away"):
        WeightsLog(tmp_path, {0: ("weight",)}, lambda: [part])
    with pytest.raises(UsageError, match=r"weights.npz cannot be read"):
        read_weights(tmp_path)


def test_a_run_without(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only runs with --track_weights 1 write it"):
        read_weights(tmp_path)
