"""Weights to start from are the same on both sides, or the server says what differs; peers reach no loader of files."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.errors import PeerError
from common.models import build_model
from common.models.first_weights import FirstWeights
from common.models.weight_files import read_weights
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import make_recipe, plan_job
from discriminative.train import train_with_server
from tests.serving import serving
from tests.test_layout import tree
from tests.test_reachable import ours
from tests.workload import options, write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of weights for a small model, of other values."""
    found = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        save_file(
            build_model("resnet20", 2).state_dict(), path := tmp_path_factory.mktemp("weights") / "weights.safetensors"
        )
        found.append(path)
    return found


def over_tcp(server: Server, asked: BaseOptions) -> dict[str, Any]:
    values = {name: getattr(asked, name) for name in asked.__dataclass_fields__}
    remote = ClientOptions(**values, port=server.port, hyperport=server.hyperport)
    return train_with_server(plan_job(remote), remote).summary


@pytest.fixture
def server_with_weights(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    from tests import serving as module  # noqa: PLC0415

    monkeypatch.setattr(module, "make_recipe", lambda chosen: make_recipe(chosen, FirstWeights(files[0])))
    with serving(tmp_path / "server") as server:
        yield server


@pytest.mark.slow
def test_both_sides_start_from_the_same_file_or_say_so(
    server_with_weights: Server, samples: str, files: list[Path], tmp_path: Path
) -> None:
    asked = options(samples, tmp_path, model="resnet20", weights=files[0], epochs=0)
    state = read_weights(files[0])

    summary = over_tcp(server_with_weights, asked)

    assert summary["parameters_digest"] == plan_job(asked).prepared.weights_digest
    (folder,) = (tmp_path / "server").glob("*-resnet20-*")
    tail = read_weights(folder / "tail.safetensors")
    assert tail.keys() < state.keys()
    assert all(torch.equal(value, state[name]) for name, value in tail.items())
    assert json.loads((folder / "job.json").read_text())["weights"].startswith("file ")
    other = options(samples, tmp_path, model="resnet20", weights=files[1])
    with pytest.raises(PeerError, match=r"starts from other weights \(file .*\) than this server \(file .*\); copy"):
        over_tcp(server_with_weights, other)
    with pytest.raises(PeerError, match=r"this server was started with weights \(file .*\), the client without; start"):
        over_tcp(server_with_weights, options(samples, tmp_path, model="resnet20"))


@pytest.mark.slow
def test_a_server_without_weights_says_so(server: Server, samples: str, files: list[Path], tmp_path: Path) -> None:
    asked = options(samples, tmp_path, model="resnet20", weights=files[0])
    with pytest.raises(PeerError, match=r"starts from weights \(file .*\), this server from the seed; start both with"):
        over_tcp(server, asked)


def test_no_module_that_a_peer_reaches_loads_what_torch_saved() -> None:
    """Not with ``weights_only`` either: whatever reads such a file is for names on this machine's command line."""
    calls = [
        (name, ast.unparse(call.func))
        for name, path in ours()
        for call in ast.walk(tree(path))
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("torch.load", "torch.hub."))
    ]
    assert calls == []
    names = {name for name, _ in ours()}
    assert names.isdisjoint(
        {f"common.models.{name}" for name in ("weight_files", "first_weights", "torchvision_weights")}
    )
