"""Frozen slices: not trained, as in evaluation, and with all of the head frozen no gradient comes down."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UsageError
from common.models.freeze import freeze
from common.training.serve import Server
from discriminative.options import ClientOptions
from discriminative.recipe import Plan, plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.workload import options, write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_samples(tmp_path_factory.mktemp("samples"), train=6)


def frozen_names(plan: Plan) -> set[str]:
    part, _ = plan.prepared.graph.parts(plan.job.frozen)
    return set(part.state_dict())


def rows(run: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_frozen_part_keeps_its_weights_statistics_and_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2))
    freeze(model, model[:3])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1)

    model.train()
    x = torch.rand(4, 3, 8, 8)
    outputs = [model[:3](x) for _ in range(2)]
    model(x).sum().backward()
    optimizer.step()

    assert torch.equal(*outputs)
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == [
        "4.weight",
        "4.bias",
    ]
    assert [each.training for each in model] == [False, False, False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("stale_it", [0, 2])
@pytest.mark.parametrize(
    ("model", "split_index", "freeze_slices"), [("resnet20", 3, 3), ("resnet20", 2, 4), ("BILSTM", 1, 1)]
)
def test_a_frozen_head_gets_no_gradients(
    samples: str, tmp_path: Path, model: str, split_index: int, freeze_slices: int, stale_it: int
) -> None:
    asked = options(samples, tmp_path, model=model, split_index=split_index, freeze=freeze_slices, stale_it=stale_it)
    plan = plan_job(asked)
    names = frozen_names(plan)
    module = plan.prepared.graph.model  # its parts are trained, in its own memory
    before = {name: value.clone() for name, value in module.state_dict().items()}

    run = train_in_process(plan, asked)

    after = module.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed.isdisjoint(names)
    assert {name for name in after if name.endswith(("weight", "running_mean"))} - names <= changed
    free = train_in_process(plan_job(options(samples, tmp_path, model=model, split_index=split_index)), asked)
    assert all(
        frozen["bytes_down"] < 400 < full["bytes_down"] for frozen, full in zip(rows(run), rows(free), strict=True)
    )


@pytest.mark.slow
def test_a_head_that_is_frozen_in_part_gets_them(samples: str, tmp_path: Path) -> None:
    asked = options(samples, tmp_path, model="resnet20", split_index=4, freeze=2)
    plan = plan_job(asked)

    run = train_in_process(plan, asked)

    assert plan.prepared.graph.gradients_wanted(plan.job.cut) == (True,)
    assert all(row["bytes_down"] > 10_000 for row in rows(run))


@pytest.mark.slow
@pytest.mark.parametrize(("split_index", "freeze_slices"), [(3, 3), (2, 5)])
def test_both_sides_freeze_the_same(
    server: Server, samples: str, tmp_path: Path, split_index: int, freeze_slices: int
) -> None:
    asked = options(samples, tmp_path, model="resnet20", split_index=split_index, freeze=freeze_slices, stale_it=1)
    values = {name: getattr(asked, name) for name in asked.__dataclass_fields__}
    remote = ClientOptions(**values, port=server.port, hyperport=server.hyperport)

    here, there = train_in_process(plan_job(asked), asked), train_with_server(plan_job(remote), remote)

    assert there.summary["parameters_digest"] == here.summary["parameters_digest"]
    assert max(run.summary["bytes_down_per_step"] for run in (here, there)) < 400


@pytest.mark.slow
def test_there_must_be_something_left_to_train(samples: str, tmp_path: Path) -> None:
    message = "--freeze is 12, but resnet20 is in 12 slices here: nothing would be left to train"
    with pytest.raises(UsageError, match=re.escape(message)):
        plan_job(options(samples, tmp_path, model="resnet20", freeze=12))
    with pytest.raises(UsageError, match="--freeze is -1; it must be 0 or more"):
        plan_job(options(samples, tmp_path, model="resnet20", freeze=-1))
    assert plan_job(options(samples, tmp_path, model="resnet20", splits=4, freeze=3)).job.frozen > 0
