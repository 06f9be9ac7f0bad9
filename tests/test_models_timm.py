"""timm's classifiers by name: built bare, and never from the hub or a folder."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UsageError
from common.models import build_model
from common.models.registry import choose
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions, JobOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process, train_with_server

pytestmark = [  # the import takes two seconds
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("timm") is None, reason="needs the extra zoo"),
]


def test_the_models_weights_are_timms_own() -> None:
    timm = import_module("timm")
    torch.manual_seed(3)
    ours = build_model("timm:ResNet10t", 7).state_dict()
    torch.manual_seed(3)
    theirs = timm.create_model("resnet10t", num_classes=7).state_dict()

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(("name", "side"), [("test_vit", 160), ("resnet10t", 176), ("crossvit_tiny_240", 240)])
def test_a_model_runs_on_its_own_example(name: str, side: int) -> None:
    chosen = choose(f"timm:{name}")

    assert chosen.input_shape == (3, side, side)
    assert chosen.build(5).eval()(*chosen.example(2)).shape == (2, 5)


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:timm/resnet18",
        "hf_hub:timm/resnet18",
        "local-dir:/etc",
        "resnet18.a1_in1k",
        "/etc/passwd",
        "resnet19",
        "",
    ],
)
def test_only_names_of_timms_table_are_taken(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"timm has no model {name!r}; the nearest are ")):
        choose(f"timm:{name}")


def test_dropout_is_what_was_asked_for() -> None:
    model = build_model("timm:test_vit", 5, dropout=0.3)
    plain = build_model("timm:test_vit", 5)

    assert 0.3 in [each.p for each in model.modules() if isinstance(each, nn.Dropout)]
    assert 0.3 not in [each.p for each in plain.modules() if isinstance(each, nn.Dropout)]


def test_the_client_plans_a_job(images: str) -> None:
    options: dict[str, Any] = {"dataset": images, "batch_size": 4, "seed": 3}

    plan = plan_job(JobOptions(model="timm:resnet10t", split_index=3, **options))

    assert (plan.job.model, plan.job.input_shape) == ("timm:resnet10t", (3, 176, 176))


def test_it_trains_over_any_server(images: str, tmp_path: Path, server: Server) -> None:
    shared: dict[str, Any] = {"dataset": images, "split_index": 1, "epochs": 1, "batch_size": 20, "run_dir": tmp_path}
    options = ClientOptions(model="timm:test_vit", port=server.port, hyperport=server.hyperport, **shared)
    split = train_with_server(plan_job(options), options).summary
    base = BaseOptions(model="timm:test_vit", **shared)
    assert split["parameters_digest"] == train_in_process(plan_job(base), base).summary["parameters_digest"]
