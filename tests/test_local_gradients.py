"""A head that trains by a loss of its own: nothing but losses comes down, and the run is the same wherever it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import JobRefused, UsageError
from common.partition import trace
from common.training.auxiliary import make_auxiliary, pooled
from common.training.moving import Change
from common.training.optimizers import find_preset
from common.training.session import check_open
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import objective, plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_labels_edge import same
from tests.test_resume import Killed, folder_of, killed_at, server_dies_at, values
from tests.test_session_rules import request
from tests.workload import options as small_options
from tests.workload import write_samples

LOCAL = {"gradients": "local", "compress": "none"}


def run(images: str, folder: Path, **more: Any) -> Finished:
    options = BaseOptions(**values(images, folder, **{**LOCAL, **more}))
    return train_in_process(plan_job(options), options)


def remote(images: str, folder: Path, server: Any, **more: Any) -> Finished:
    ports = {"port": server.port, "hyperport": server.hyperport}
    options = ClientOptions(**values(images, folder, **{**LOCAL, **ports, "reconnect_s": 20.0, **more}))
    return train_with_server(plan_job(options), options)


def bytes_down(run: Finished) -> list[int]:
    return [json.loads(line)["bytes_down"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("stale_it", [0, 2])
def test_aligned_at_every_step_it_is_training_by_the_clouds_gradients(
    images: str, tmp_path: Path, stale_it: int
) -> None:
    setting = {"stale_it": stale_it, "dropout": 0.2}
    expected = run(images, tmp_path / "cloud", gradients="cloud", **setting)
    same(run(images, tmp_path / "local", align_every=1, **setting), expected)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_but_the_loss_comes_down_and_the_head_learns(images: str, tmp_path: Path) -> None:
    asked = BaseOptions(**values(images, tmp_path, **LOCAL, stale_it=2, epochs=3))
    plan = plan_job(asked)
    head, _ = plan.prepared.graph.parts(plan.job.cut)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    finished = train_in_process(plan, asked)
    assert max(bytes_down(finished)) < 400
    changed = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_staleness_changes_nothing_where_no_gradient_comes(images: str, tmp_path: Path) -> None:
    same(run(images, tmp_path / "pipelined", stale_it=3), run(images, tmp_path / "serial", stale_it=0))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_so_many_steps_the_clouds_gradient_comes(images: str, tmp_path: Path) -> None:
    down = bytes_down(run(images, tmp_path, stale_it=2, align_every=3))
    assert [nbytes > 10_000 for nbytes in down] == [(step + 1) % 3 == 0 for step in range(8)]


SETTINGS: list[dict[str, Any]] = [
    {"stale_it": 2, "compress": "", "compress_up": "delta+int8", "compress_down": "ef+int8", "align_every": 3},
    {"stale_it": 0, "optim": "tinyimagenet", "dropout": 0.2, "align_every": 2},
    {"stale_it": 3, "labels": "edge", "K_schedule": (1,), "align_every": 4},
]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("setting", SETTINGS, ids=["codecs", "adam", "growing-K"])
def test_over_a_network_as_in_one_process_also_when_it_is_killed(
    images: str, tmp_path: Path, setting: dict[str, Any]
) -> None:
    expected = run(images, tmp_path / "base", **setting)
    with serving(tmp_path / "server") as server:
        same(remote(images, tmp_path / "client", server, **setting), expected)
        with pytest.MonkeyPatch.context() as patch:
            killed_at(5, patch)
            with pytest.raises(Killed):
                remote(images, tmp_path / "killed", server, **setting)
    with serving(tmp_path / "server") as server, pytest.MonkeyPatch.context() as patch:
        same(remote(images, tmp_path, server, resume=folder_of(tmp_path / "killed"), **setting), expected)
        with server_dies_at(4, server, tmp_path, patch):
            same(remote(images, tmp_path / "restarted", server, **setting), expected)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_in_one_process_goes_on(images: str, tmp_path: Path) -> None:
    setting = {"stale_it": 2, "align_every": 3, "optim": "tinyimagenet"}
    expected = run(images, tmp_path / "base", **setting)
    with pytest.MonkeyPatch.context() as patch:
        killed_at(4, patch)
        with pytest.raises(Killed):
            run(images, tmp_path / "killed", **setting)
    same(run(images, tmp_path, resume=folder_of(tmp_path / "killed"), **setting), expected)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_texts(tmp_path: Path) -> None:
    asked = small_options(
        write_samples(tmp_path, train=6), tmp_path, model="BILSTM", split_index=2, stale_it=1, **{"gradients": "local"}
    )
    assert max(bytes_down(train_in_process(plan_job(asked), asked))) < 400


def test_means_over_places_and_over_time() -> None:
    image, text = torch.rand(2, 3, 4, 5), torch.rand(2, 7, 3)
    assert torch.equal(pooled(image), image.flatten(2).mean(2))
    assert torch.equal(pooled(text), text.mean(1))
    assert pooled(torch.rand(2, 6)).shape == (2, 6)
    assert pooled(torch.rand(2)).shape == (2, 1)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_index": 0}, "--gradients local: the head has nothing to train at this cut"),
        ({"split_index": 3, "freeze": 3}, "--gradients local: the head has nothing to train at this cut"),
        ({"cut": "classifier", "split_index": None}, "with all of the model on the edge its loss is local as it is"),
    ],
)
def test_a_head_that_learns_nothing_from_it(images: str, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(images, tmp_path, **changes)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_cut_stays(images: str, tmp_path: Path) -> None:
    plan = plan_job(BaseOptions(**values(images, tmp_path, **LOCAL)))
    with pytest.raises(UsageError, match=r"the cut stays behind .* is of this cut alone"):
        Change(cut=5).of(plan.job, plan.prepared.graph)
    assert Change(stale_it=1).of(plan.job, plan.prepared.graph).stale_it == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": "cloud", "align_every": 2}, "--align_every is of --gradients local"),
        ({"align_every": -1}, "--align_every is -1; it must be 0 or more"),
        ({"move": ("3:5",)}, "which --move would leave"),
        ({"lookahead": True}, "--lookahead is for gradients that come late"),
        ({"replay": "stash"}, "--replay stash is for gradients that come late"),
    ],
)
def test_flags_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BaseOptions(**{"gradients": "local", **changes}).check()


def test_what_a_server_takes() -> None:
    check_open(request(gradients="local", align_every=5))
    with pytest.raises(JobRefused, match="gradients are to be 'mine'; it is cloud or local"):
        check_open(request(gradients="mine"))
    with pytest.raises(JobRefused, match="align_every is -1"):
        check_open(request(align_every=-1))


def test_it_begins_alike_from_the_seed_and_goes_on_from_its_state() -> None:
    graph = trace(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), (torch.rand(2, 3, 8, 8),)
    )
    job = request(cut=graph.find("1").index, num_classes=2, seed=5).job
    preset = find_preset("imdb")
    one, same_again = (make_auxiliary(graph, job, objective, preset, "cpu", {}) for _ in range(2))
    outputs, labels = [torch.rand(2, 4, 6, 6, requires_grad=True)], torch.tensor([0, 1])
    one.learn(outputs, labels, 0)
    assert outputs[0].grad is not None
    assert any(not torch.equal(value, one.state().get(key, value)) for key, value in same_again.state().items())
    again = make_auxiliary(graph, job, objective, preset, "cpu", {key: v.clone() for key, v in one.state().items()})
    for each in (one, again):
        each.learn(outputs, labels, 0)
    assert one.state().keys() == again.state().keys()
    assert all(torch.equal(value, again.state()[key]) for key, value in one.state().items())


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, classes)

    def forward(self, x):
        y = self.a(x)
        if float(y.mean().detach()) > 1e9:
            y = 2 * y
        return self.b(y.mean((2, 3)))
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut": "a"}, "--gradients local: what crosses depends on the data in this model"),
        ({"cut": "0", "gradients": "cloud", "cache_activations": True}, "what crosses at input depends on the data"),
    ],
)
def test_models_that_go_by_the_data(images: str, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(UsageError, match=message):
        run(images, tmp_path, model=f"{tmp_path / 'own.py'}:Net", split_index=None, **changes)
