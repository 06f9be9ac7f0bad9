"""What a head may do about gradients that are late: look ahead, and shrink them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UsageError
from common.training.optimizers import Updater, find_preset
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process
from tests.test_resume import losses, values

pytestmark = pytest.mark.timeout(60)


def trained(name: str, steps: int) -> tuple[nn.Linear, Updater]:
    torch.manual_seed(0)
    part = nn.Linear(4, 3)
    updater = Updater(find_preset(name), part, 0.01)
    for _ in range(steps):
        part(torch.ones(2, 4)).sum().backward()
        updater.apply(0)
    return part, updater


@pytest.mark.parametrize("name", ["mobilenet", "tinyimagenet", "imdb"])
def test_it_looks_where_steps_like_the_last_one_lead(name: str) -> None:
    part, updater = trained(name, 200)
    before = part.bias.detach().clone()
    with updater.ahead(3, 0):
        expected = part.bias.detach().clone()
    assert torch.equal(part.bias, before)
    for _ in range(3):  # the gradients of a sum never change
        part(torch.ones(2, 4)).sum().backward()
        updater.apply(0)
    assert torch.allclose(expected - before, part.bias.detach() - before, rtol=0.02)


def test_before_the_first_step_there_is_no_direction() -> None:
    part, updater = trained("resnet", 0)
    before = part.weight.detach().clone()
    with updater.ahead(5, 0):
        assert torch.equal(part.weight, before)


def test_an_optimizer_without_momentum() -> None:
    _, updater = trained("resnetpre", 1)
    with pytest.raises(UsageError, match="needs an optimizer with momentum"), updater.ahead(1, 0):
        pass


def train(images: str, tmp_path: Path, **more: Any) -> Finished:
    options = BaseOptions(**values(images, tmp_path, compress="none", checkpoint_every=-1, **more))
    return train_in_process(plan_job(options), options)


@pytest.mark.slow
@pytest.mark.parametrize("correction", [{"lookahead": True}, {"gradient_shrink": 0.5}], ids=["ahead", "shrink"])
def test_without_staleness_nothing_is_late(images: str, tmp_path: Path, correction: dict[str, Any]) -> None:
    plain = train(images, tmp_path / "plain", stale_it=0)
    assert losses(train(images, tmp_path / "same", stale_it=0, **correction)) == losses(plain)
    late = train(images, tmp_path / "late", stale_it=2)
    assert losses(train(images, tmp_path / "other", stale_it=2, **correction)) != losses(late)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"gradient_shrink": 0.0}, "--gradient_shrink is 0.0"),
        ({"gradient_shrink": 1.5}, "--gradient_shrink is 1.5"),
        ({"lookahead": True, "optim": "resnet_pre"}, "--optim resnet_pre has none; choose another, or leave it out"),
        ({"lookahead": True, "optim": "din"}, "--optim din has none"),
    ],
)
def test_corrections_that_cannot_be(images: str, tmp_path: Path, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        BaseOptions(**values(images, tmp_path, **flags)).check()
