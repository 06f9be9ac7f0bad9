"""Histograms of the weights of each slice, behind each epoch."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from common.drawing import LOOKS
from common.errors import UsageError
from common.figures.weights import draw, read_weights
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process
from tests.test_resume import values

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


def test_a_run_without(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only runs with --track_weights 1 write it"):
        read_weights(tmp_path)
