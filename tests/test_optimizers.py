"""The presets are the published ones, and their rates fall where torch's own schedule lets them fall."""

from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, RMSprop
from torch.optim.lr_scheduler import MultiStepLR

from common.errors import JobRefused, UsageError
from common.training.optimizers import PRESETS, Updater, find_preset, late_preset_of, preset_of, with_momentum
from common.training.session import check_open
from discriminative.options import BaseOptions
from tests.test_session_rules import request

EPOCHS = 200
STEADY: dict[str, dict[str, Any]] = {"resnet": {"weight_decay": 0.0}}
"""Without what makes the gradient another than the one that is given."""

# As published: optimizer, what it is called with, epochs of the steps, factor.
PUBLISHED: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], list[int], float]] = {
    "resnet": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}, [81, 122], 0.1),
    "resnetpre": (RMSprop, {"lr": 5e-5, "weight_decay": 1e-4}, [], 1.0),
    "mobilenet": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-5}, [100, 150, 180], 0.1),
    "tinyimagenet": (Adam, {"lr": 8e-5, "weight_decay": 1e-3}, [3, 20], 0.5),
    "imdb": (Adam, {"lr": 1e-3}, [], 1.0),
    "chairs": (Adam, {"lr": 5e-4, "eps": 1e-6}, [], 1.0),  # halved by the held-out loss, see test_generative
    "din": (SGD, {"lr": 0.1}, list(range(1, EPOCHS)), 0.1),
}


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))


def updater(name: str, weight: nn.Parameter, learning_rate: float = 0.0) -> Updater:
    return Updater(find_preset(name), nn.ParameterList([weight]), learning_rate)


def test_no_preset_is_missing() -> None:
    assert PRESETS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_settings(name: str) -> None:
    kind, settings, _, _ = PUBLISHED[name]
    expected = kind([parameter()], **settings)

    optimizer = updater(name, parameter()).optimizer

    assert type(optimizer) is kind
    assert optimizer.defaults == expected.defaults


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_follow_torchs_own_optimizer_and_schedule(name: str) -> None:
    kind, settings, milestones, factor = PUBLISHED[name]
    theirs, ours = parameter(), parameter()
    optimizer, update = kind([theirs], **settings), updater(name, ours)
    schedule = MultiStepLR(optimizer, milestones, factor)

    for epoch in range(EPOCHS):
        theirs.grad, ours.grad = theirs.detach() * 0.3, ours.detach() * 0.3
        assert find_preset(name).rate(epoch) * settings["lr"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        schedule.step()
        update.apply(epoch)

    assert torch.allclose(ours, theirs, rtol=1e-5, atol=0)
    assert not torch.allclose(ours, parameter(), rtol=1e-4)


def test_a_learning_rate_of_ones_own_falls_at_the_same_epochs() -> None:
    update = updater("resnet", weight := parameter(), learning_rate=2.0)
    rates = []
    for epoch in (0, 80, 81, 122):
        weight.grad = torch.zeros(3)
        update.apply(epoch)
        assert update.optimizer is not None
        rates.append(update.optimizer.param_groups[0]["lr"])

    assert rates == pytest.approx([2.0, 2.0, 0.2, 0.02])


def test_steps_of_ones_own_take_the_place_of_the_presets() -> None:
    job = request(optim="resnet").job
    assert preset_of(job) == PRESETS["resnet"]

    own = preset_of(msgspec.structs.replace(job, milestones=(2, 5), gamma=0.5))

    assert [own.rate(epoch) for epoch in (0, 1, 2, 4, 5, 90)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert own.make is PRESETS["resnet"].make


WRONG_STEPS: list[tuple[dict[str, Any], str]] = [
    ({"milestones": (3, 3)}, "--milestones are 3 3; each must be later than the one before"),
    ({"milestones": (-1, 3)}, "--milestones are -1 3; each"),
    ({"milestones": tuple(range(65))}, "--milestones are 65; 64 are the most"),
    ({"milestones": (3,), "gamma": 1.5}, "--gamma is 1.5; it goes from 0 to 1"),
    ({"milestones": (3,), "gamma": float("nan")}, "--gamma is nan"),
]


@pytest.mark.parametrize(("steps", "message"), WRONG_STEPS)
def test_steps_that_make_no_sense_are_refused_on_both_sides(steps: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BaseOptions(**steps).check()
    with pytest.raises(JobRefused):
        check_open(request(**steps))


@pytest.mark.parametrize("name", ["chairs", "resnet"])
def test_another_momentum_leaves_the_way_along_a_steady_gradient(name: str) -> None:
    preset = replace(find_preset(name), make=partial(find_preset(name).make, **STEADY.get(name, {})))
    before, after = parameter(), parameter()
    updates = [
        Updater(preset, nn.ParameterList([before])),
        Updater(slow := with_momentum(preset, 0.98), nn.ParameterList([after])),
    ]
    for _ in range(600):
        last = before.detach().clone(), after.detach().clone()
        for weight, update in zip((before, after), updates, strict=True):
            weight.grad = torch.tensor([0.5, 0.5, -0.5])
            update.apply(0)

    assert torch.allclose(before - last[0], after - last[1], rtol=1e-3)
    optimizer = updates[1].optimizer
    assert optimizer is not None
    defaults = optimizer.defaults
    assert 0.98 in (defaults.get("momentum"), *defaults.get("betas", ()))
    assert slow.rate(0) <= preset.rate(0)


def test_only_a_head_whose_gradients_are_late_has_the_other_momentum() -> None:
    job = request(optim="chairs", stale_it=0, late_momentum=0.98).job
    assert late_preset_of(job) == preset_of(job)
    late = late_preset_of(msgspec.structs.replace(job, stale_it=1)).make([parameter()])
    assert late.defaults == {**preset_of(job).make([parameter()]).defaults, "betas": (0.98, 0.999)}
    with pytest.raises(UsageError, match="an optimizer without momentum cannot have another one"):
        with_momentum(find_preset("resnetpre"), 0.98)
    with pytest.raises(JobRefused, match="late_momentum is 1"):
        check_open(request(late_momentum=1.0))


def test_gradients_are_cleared_behind_a_step() -> None:
    weight = parameter()
    weight.grad = torch.ones(3)

    updater("imdb", weight).apply(0)

    assert weight.grad is None


def test_a_part_without_trainable_parameters_has_nothing_to_apply() -> None:
    frozen = parameter()
    frozen.requires_grad = False
    update = Updater(find_preset("resnet"), nn.ParameterList([frozen]))

    update.apply(0)

    assert update.optimizer is None
    assert torch.equal(frozen, parameter())


def test_the_spelling_of_the_published_readme_is_taken() -> None:
    assert find_preset("resnet_pre") is PRESETS["resnetpre"]


@pytest.mark.parametrize(("name", "nearest"), [("resent", "resnet"), ("tinyimagnet", "tinyimagenet"), ("imbd", "imdb")])
def test_an_unknown_preset_is_told_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"unknown --optim '{name}'; did you mean {nearest}"):
        find_preset(name)
