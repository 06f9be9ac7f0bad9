"""Several parties that train one model: equal to the joint model, with a network or without, whatever their samples."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from common.datasets.movielens import GENRES
from common.models.din import DIN
from common.naming import letter
from DIN.options import BaseOptions
from DIN.server_labels import ServerLabels
from DIN.train import plan_all
from tests.secure import made
from tests.serving import serving
from tests.vertical import RECIPES, clicks, here, losses, party, same, together, values

pytestmark = pytest.mark.timeout(120)

NAMES = ("auc", "gauc", "log_loss", "batch_auc")


@pytest.mark.slow
@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize("owner", ["A", "B"])
@pytest.mark.parametrize("cut", ["", "cat_2"])
def test_without_staleness_it_is_the_joint_model(tmp_path: Path, parties: int, owner: str, cut: str) -> None:
    setting: dict[str, Any] = {"stale_it": 0, "compress": "none", "parties": parties, "label_owner": owner, "cut": cut}
    runs = here(tmp_path, **setting)
    plans = plan_all(BaseOptions(**values(tmp_path, **setting)), [clicks()] * parties)
    torch.manual_seed(0)
    model = DIN(parties, len(clicks().genres), len(GENRES) + 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)
    labelled = "AB".index(owner)
    expected = []
    for epoch in range(2):
        model.train()
        for batches in zip(*(plan.train.epoch(epoch) for plan in plans), strict=True):
            outputs = model([batch.inputs for batch in batches])
            loss = nn.functional.cross_entropy(outputs, batches[labelled].labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            expected.append(loss.item())
        scheduler.step()
    assert [loss for _, loss in losses(runs[labelled])] == expected
    state = model.state_dict()
    tail = load_file(runs[0].folder.parent / "tail.safetensors")
    for number, run in enumerate(runs):
        head = load_file(run.folder / "head.safetensors")
        for name, value in head.items():
            assert torch.equal(value, state[f"bottoms.{number}.{name}"]), name
        rest = {n.removeprefix(f"rests.{number}."): v for n, v in tail.items() if n.startswith(f"rests.{number}.")}
        assert len(head) + len(rest) == len(dict(model.bottoms[number].named_parameters()))
        for name, value in rest.items():
            assert torch.equal(value, state[f"bottoms.{number}.{name}"]), name
    for name, value in tail.items():
        assert name.startswith("rests.") or torch.equal(value, state[name]), name


SETTINGS: list[dict[str, Any]] = [
    {"stale_it": 0, "compress": "none"},
    {"stale_it": 3, "compress_up": "delta+int4/c+zstd", "compress_down": "ef+topk:0.1+int8"},
    {"stale_it": 3, "use_EF": 1, "label_owner": "A", "parties": 3},
]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: f"K{each['stale_it']}-{len(each)}")
def test_over_a_network_it_is_the_same(tmp_path: Path, setting: dict[str, Any]) -> None:
    expected = here(tmp_path / "here", **setting)
    names = [letter(each) for each in range(setting.get("parties", 2))]
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in names))
    same(runs, expected)
    owner = runs[names.index(setting.get("label_owner", "B"))]
    assert 0.4 < owner.summary["auc"] < 1


@pytest.mark.slow
def test_under_tls_it_is_the_same(tmp_path: Path) -> None:
    server_side, edge = made(tmp_path / "security")
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20, security=server_side) as server:
        runs = together(*(partial(party, server, tmp_path, name, protection=edge) for name in "AB"))
    same(runs, here(tmp_path / "here"))


@pytest.mark.slow
def test_the_server_has_the_labels(tmp_path: Path) -> None:
    """It is one more that must have a sample, and the loss is computed there; the result is the same."""
    setting: dict[str, Any] = {"stale_it": 2, "compress": "int8"}
    whole, some = clicks(), clicks().taken(np.arange(20, len(clicks().labels)))
    expected = here(tmp_path / "owned", [some, some], **setting)
    setting |= {"label_owner": "server"}
    here_too = here(tmp_path / "here", [whole, whole, some], **setting)
    folder = tmp_path / "server"
    with serving(folder, recipes=RECIPES, away_s=20, labels=ServerLabels(some, b"", folder)) as server:
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in "AB"))
    same(runs, here_too)
    for run, owned in zip(runs, expected, strict=True):
        assert losses(run) == losses(owned)
        assert run.summary["parameters_digest"] == owned.summary["parameters_digest"]
        assert run.summary["accuracy"] == expected[1].summary["accuracy"]
    for table in (*folder.glob("din-*-epochs.csv"), *(tmp_path / "here").glob("*/epochs.csv")):
        rows = table.read_text().splitlines()
        assert [float(each) for each in rows[-1].split(",")] == [expected[1].summary[name] for name in NAMES]
        assert len(rows) == 3


@pytest.mark.slow
def test_samples_are_matched_by_id(tmp_path: Path) -> None:
    """Other orders, missing, extra and repeated samples at one party: what counts is what all have."""
    whole, random = clicks(), np.random.default_rng(1)
    count = len(whole.labels)
    common = np.sort(random.choice(count, count - 60, replace=False))
    expected = here(tmp_path / "expected", [whole.taken(common)] * 2)
    missing = random.permutation(np.concatenate([common, common[:5]]))
    a, b = whole.taken(missing), whole
    same(here(tmp_path / "one", [a, b]), expected)
    same(here(tmp_path / "other", [b, a]), expected)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(
            partial(party, server, tmp_path, "A", a, salt="s" * 20),
            partial(party, server, tmp_path, "B", b, salt="s" * 20),
        )
    same(runs, here(tmp_path / "salted", [a, b], salt="s" * 20))
