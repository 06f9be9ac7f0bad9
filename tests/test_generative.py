"""A generator whose head is at the cloud: the same training as unsplit, and as in one process, bit for bit."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image

from common.errors import JobRefused, UsageError
from common.link.contexts import LinkContext, parse_context
from common.link.emulate import Link, Route
from common.models.chairs import POSE, Chairs, Form
from common.partition import trace
from common.training.plateau import Plateau
from common.training.recorder import Recorder
from common.training.station import Station
from common.wire.messages import Activations, Gradients, Inputs
from discriminative.train import train_with_server
from generative.options import BaseOptions, ClientOptions
from generative.recipe import build, plan_job
from tests.generating import QUICK, here, losses, remote, same, served, unsplit, values
from tests.secure import made
from tests.test_poses import RENDERS
from tests.test_resume import Killed, folder_of, killed_at, server_dies_at

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

MEMORY = {"compress": "", "compress_up": "ef+topk:0.2+int8", "compress_down": "delta+int8"}


def test_the_published_generator_has_11_slices_and_a_view_that_tells_up_from_down() -> None:
    with torch.device("meta"):
        model = Chairs(809, Form(128, 1.0))
        sizes = [tuple(each.shape[1:]) for each in _behind_each(model, torch.zeros(2, POSE))]
    expected = [(1536,), (1024,), (1024,), (256, 8, 8), (256, 16, 16), (256, 16, 16), (92, 32, 32), (92, 32, 32)]
    assert sizes == [*expected, (48, 64, 64), (48, 64, 64), (3, 128, 128)]
    graph = trace(Chairs(3, Form(32, 0.05)), (torch.rand(2, POSE),))
    assert graph.blocks == 11


def _behind_each(model: Chairs, x: torch.Tensor) -> list[torch.Tensor]:
    made = []
    for each in model.slices:
        x = each(x)
        made.append(x)
    return made


@pytest.mark.parametrize("cut", [0, 1, 3, 5, 8, 11])
def test_at_k0_it_is_unsplit_training(tmp_path: Path, cut: int) -> None:
    """With rates that fall: at 0.2 the held-out loss does not go down all the time."""
    setting: dict[str, Any] = {"split_index": cut, "lr": 0.2, "epochs": 5}
    run = here(tmp_path, **setting)
    taken, digest, held_out, rate = unsplit(plan_job(BaseOptions(**values(tmp_path, **setting))))
    assert rate < 0.2
    assert [loss for _, loss in losses(run)] == taken
    assert (run.summary["parameters_digest"], run.summary["loss"]) == (digest, held_out)
    assert run.summary["accuracy"] is None


@pytest.mark.parametrize("codecs", [{}, MEMORY], ids=["exact", "with-memory"])
def test_k3_over_a_slow_jittery_link_is_the_run_in_one_process(tmp_path: Path, codecs: dict[str, str]) -> None:
    setting: dict[str, Any] = {"stale_it": 3, "lr": 0.02, "epochs": 3, **codecs}
    expected = here(tmp_path / "base", **setting)
    with served(tmp_path / "server") as server:
        routes = [Route(("127.0.0.1", 0), ("127.0.0.1", port)) for port in (server.port, server.hyperport)]
        with Link(parse_context("40/40/20/10"), routes, seed=1) as link:
            run = remote(_Ports(*(port for _, port in link.addresses)), tmp_path / "client", **setting)
    same(run, expected)
    assert run.summary["bytes_up_per_step"] == expected.summary["bytes_up_per_step"]
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["staleness"] for row in rows[:8]] == [3, 3, 3, 3, 3, 2, 1, 0]
    assert all(row["cloud_s"] > 0 for row in rows)


class _Ports:
    def __init__(self, port: int, hyperport: int) -> None:
        self.port, self.hyperport = port, hyperport


def test_two_edges_of_one_server_under_tls(tmp_path: Path) -> None:
    """Each has a head of its own there, and the result of the run in one process."""
    server_side, edge = made(tmp_path / "security")
    with served(tmp_path / "server", security=server_side) as server, ThreadPoolExecutor(2) as pool:
        asked: list[dict[str, Any]] = [{"stale_it": 1}, {"stale_it": 0, "seed": 4}]
        runs = [pool.submit(remote, server, tmp_path / str(i), protection=edge, **asked[i]) for i in range(2)]
        for i, run in enumerate(runs):
            same(run.result(100), here(tmp_path / f"here-{i}", **asked[i]))


def test_eager_training_stays_within_the_bound(tmp_path: Path) -> None:
    with served(tmp_path / "server") as server:
        run = remote(server, tmp_path / "client", stale_it=2, schedule="eager")
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert all(0 <= row["staleness"] <= 2 for row in rows)


def test_a_link_that_breaks_changes_nothing(tmp_path: Path) -> None:
    setting: dict[str, Any] = {"stale_it": 2, "checkpoint_every": 3, **MEMORY}
    expected = here(tmp_path / "base", **setting)
    with served(tmp_path / "server") as server, pytest.MonkeyPatch.context() as patch:
        routes = [Route(("127.0.0.1", 0), ("127.0.0.1", port)) for port in (server.port, server.hyperport)]
        with Link(LinkContext("fast", 1000, 1000, 0), routes, seed=1) as link:
            breaking_at({2, 5, 9, 13}, link, patch)
            run = remote(_Ports(*(port for _, port in link.addresses)), tmp_path / "client", **setting)
    same(run, expected)
    assert run.summary["faults"] > 1


def breaking_at(steps: set[int], link: Link, patch: pytest.MonkeyPatch) -> None:
    """Break all connections when a step is done."""
    real = Recorder.step

    def record(self: Recorder, done: Any) -> None:
        real(self, done)
        if done.step in steps:
            link.sever()

    patch.setattr(Recorder, "step", record)


SETTINGS: list[dict[str, Any]] = [
    {"stale_it": 0},
    {"stale_it": 3, "checkpoint_every": 3},
    {"stale_it": 2, "checkpoint_every": 3, **MEMORY},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=["K0", "K3", "with-memory"])
@pytest.mark.parametrize("step", [4, 10])
def test_a_run_in_one_process_that_is_killed_goes_on(tmp_path: Path, setting: dict[str, Any], step: int) -> None:
    setting = {"checkpoint_every": 3, "lr": 0.02, "epochs": 3, **setting}
    whole = here(tmp_path / "alone", **setting)
    with pytest.MonkeyPatch.context() as patch:
        killed_at(step, patch)
        with pytest.raises(Killed):
            here(tmp_path / "killed", **setting)
    resumed = here(tmp_path, resume=folder_of(tmp_path / "killed"), **setting)
    same(resumed, whole)
    assert resumed.summary["resumes"] == 1


@pytest.mark.parametrize("setting", SETTINGS[1:], ids=["K3", "with-memory"])
@pytest.mark.parametrize("dies", ["client", "server", "both"])
def test_a_run_over_a_network_that_is_killed_goes_on(tmp_path: Path, setting: dict[str, Any], dies: str) -> None:
    setting = {"lr": 0.02, "epochs": 3, **setting}
    whole = here(tmp_path / "alone", **setting)
    step = 20  # behind two epochs, so that rates have fallen
    with pytest.MonkeyPatch.context() as patch, served(tmp_path / "server") as server:
        if dies == "server":
            recipes = {"recipes": server._opener.recipes}
            with server_dies_at(step, server, tmp_path, patch, **recipes) as revived:
                resumed = remote(server, tmp_path / "killed", **setting)
            assert revived
        else:
            killed_at(step, patch)
            with pytest.raises(Killed):
                remote(server, tmp_path / "killed", **setting)
            patch.undo()
            if dies == "client":
                resumed = remote(server, tmp_path, resume=folder_of(tmp_path / "killed"), **setting)
    if dies == "both":
        with served(tmp_path / "server") as server:
            resumed = remote(server, tmp_path, resume=folder_of(tmp_path / "killed"), **setting)
    same(resumed, whole)
    assert resumed.summary["resumes"] >= 1


def test_the_cut_moves(tmp_path: Path) -> None:
    moves = ("2:8", "5:0", "7:slices.2", "11:slices.10.conv")
    expected = here(tmp_path / "still")
    same(here(tmp_path / "moved", move=moves), expected)
    with served(tmp_path / "server") as server:
        moved = remote(server, tmp_path / "client", move=moves)
        same(moved, expected)
        stale: dict[str, Any] = {"stale_it": 2, "move": moves, "K_schedule": (1,), **MEMORY}
        same(remote(server, tmp_path / "stale", **stale), here(tmp_path / "base", **stale))
    assert moved.summary["moves"] == 4


def test_nothing_of_the_images_goes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came = came_up(monkeypatch)
    here(tmp_path, epochs=1)
    kinds = {type(frame.message) for frame in came}
    assert {Inputs, Gradients} <= kinds
    assert Activations not in kinds
    for frame in came:
        if isinstance(frame.message, Inputs):
            assert [each.shape[1:] for each in frame.message.tensors] == [(POSE,)]
            assert sum(len(each) for each in frame.buffers) <= len(frame.buffers[0]) + 8 * 58


def test_each_epoch_leaves_pictures(tmp_path: Path) -> None:
    with served(tmp_path / "server") as server:
        run = remote(server, tmp_path / "client", samples=4)
    names = sorted(path.name for path in (run.folder / "samples").iterdir())
    assert names == ["epoch_001.png", "epoch_002.png", "turn_001.png", "turn_002.png"]
    with Image.open(run.folder / "samples" / "epoch_002.png") as grid:
        assert grid.size == (4 * 32, 2 * 32)
    (theirs,) = (tmp_path / "server").glob("*-server-*/head.safetensors")
    assert theirs.stat().st_size > 0
    assert (run.folder / "tail.safetensors").stat().st_size > 0


@pytest.mark.parametrize("patience", [0, 2])
def test_the_plateau_is_torchs(patience: int) -> None:
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)
    plateau = Plateau(patience=patience)
    for loss in torch.rand(16, generator=random).tolist():
        scheduler.step(loss)
        plateau = plateau.after(loss)
        assert 0.1 * plateau.factor == optimizer.param_groups[0]["lr"]
    assert plateau.factor < 1


def test_how_long_a_run_waits_for_a_lower_loss(tmp_path: Path) -> None:
    def patience(**more: Any) -> int:
        plateau = plan_job(BaseOptions(**values(tmp_path, **more))).plateau
        assert plateau is not None
        return plateau.patience

    assert patience(stale_it=0) == patience(stale_it=1, split_index=0) == 2  # as published; all on the edge is not late
    assert patience(stale_it=1) == 6
    assert patience(stale_it=1, patience=3) == patience(stale_it=0, patience=3) == 3
    assert plan_job(BaseOptions(**values(tmp_path, optim="imdb"))).plateau is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_size": 48}, "--image_size is 48"),
        ({"width": 0.0}, "--width is 0.0"),
        ({"stale_it": -1}, "--stale_it is -1"),
        ({"late_rate": -0.5}, "--late_rate is -0.5"),
        ({"patience": -1}, "--patience is -1; it must be 0 or more"),
        ({"patience": 2, "optim": "imdb"}, "--patience is 2; the rate is halved with --optim chairs only"),
        ({"lookahead": 2.5}, "--lookahead is 2.5; it goes from 0 to 2"),
        ({"late_momentum": 1.0}, "--late_momentum is 1.0; it goes from 0 to below 1"),
        ({"late_rate": float("nan")}, "--late_rate is nan; it must be 0 or more"),
        ({"optim": "resnet_pre"}, "--lookahead needs an optimizer with momentum"),
        ({"optim": "resnet_pre", "lookahead": 0.0}, "--late_momentum needs an optimizer with momentum"),
        ({"num_chairs": 5}, "shows 8 chairs; --num_chairs 5 is fewer"),
        ({"dataset": "digits"}, "unknown --dataset 'digits'"),
        ({"split_index": 12}, "in 11 slices"),
        ({"compress": "", "compress_up": "delta+int8"}, "for gradients, say"),
        ({"compress": "", "compress_down": "ef+int8"}, "for activations say"),
    ],
)
def test_what_cannot_be_is_refused_in_words(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        plan_job(ClientOptions(**values(tmp_path, **changes)))


def test_a_server_builds_generators_only(tmp_path: Path) -> None:
    job = plan_job(BaseOptions(**values(tmp_path))).job
    for changes in ({"direction": "up"}, {"input_shape": (18,)}, {"vocabulary": 3}):
        with pytest.raises(JobRefused, match="17 numbers of a pose"):
            build(msgspec.structs.replace(job, **changes))
    with pytest.raises(UsageError, match="unknown model 'resnet20'"):
        build(msgspec.structs.replace(job, model="resnet20"))


def test_an_edge_whose_cloud_is_gone_trains_on_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At K = 0 without compression nothing is lost but the steps since the last copy, which are the same again."""
    expected = here(tmp_path / "base")
    with served(tmp_path / "server") as server:
        real = Recorder.step

        def record(self: Recorder, done: Any) -> None:
            real(self, done)
            if done.step == 6:
                server.close()

        monkeypatch.setattr(Recorder, "step", record)
        more = {"on_disconnect": "edge", "checkpoint_every": 2}
        ports = {"port": server.port, "hyperport": server.hyperport, "reconnect_s": 0.5}
        options = ClientOptions(**values(tmp_path / "client", **ports, **more))
        run = train_with_server(replace(plan_job(options), plateau=QUICK), options)
    same(run, expected)
    assert run.summary["alone_steps"] > 0
    assert (run.folder / "head.safetensors").exists()


def came_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that a cloud decodes from now on."""
    came: list[Any] = []
    real = Station.decode

    def decode(self: Station, received: Any) -> Any:
        came.append(received.frame)
        return real(self, received)

    monkeypatch.setattr(Station, "decode", decode)
    return came


@pytest.mark.parametrize("schedule", ["fixed", "eager"])
def test_the_head_is_told_how_far_to_look_ahead_and_at_which_rate_to_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    frames = came_up(monkeypatch)
    here(tmp_path, Plateau(patience=0, best=0.0), stale_it=3, epochs=3, late_rate=2.25, schedule=schedule)
    messages = [frame.message for frame in frames]
    rates = [0.75, 0.5, 0.25]  # 2.25 / 3, then what the held-out loss makes of it
    told = [each.rate for each in messages if isinstance(each, Gradients)]
    assert told == [rates[step // 8] for step in range(24)]
    under_way: dict[int, int] = {}
    for each in messages:
        if isinstance(each, Gradients):
            del under_way[each.step]
        elif isinstance(each, Inputs):
            assert each.ahead == (1.5 * len(under_way) * rates[each.epoch] if each.training else 0)
            under_way |= {each.step: 1} if each.training else {}
    assert max(each.ahead for each in messages if isinstance(each, Inputs)) == (
        1.5 * 2.25 if schedule == "fixed" else 0
    )


def test_without_lookahead_and_limit_the_head_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = came_up(monkeypatch)
    none: dict[str, Any] = {"lookahead": 0.0, "late_rate": 0.0, "late_momentum": 0.0}
    plain = losses(here(tmp_path, stale_it=3, **none))
    assert {frame.message.ahead for frame in frames if isinstance(frame.message, Inputs)} == {0}
    assert {frame.message.rate for frame in frames if isinstance(frame.message, Gradients)} == {1}
    each_alone: list[dict[str, Any]] = [{"lookahead": 1.0}, {"late_rate": 0.5}, {"late_momentum": 0.98}]
    for flags in each_alone:
        assert losses(here(tmp_path, stale_it=3, **{**none, **flags})) != plain
    same(here(tmp_path, stale_it=0), here(tmp_path, stale_it=0, **none))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("data", ["shapes", "objects"])
def test_stale_and_compressed_it_learns_as_unsplit(tmp_path: Path, data: str) -> None:
    """With the default codecs, at the least K that edge and cloud of the same speed ask for."""
    if data == "objects" and not RENDERS.is_dir():
        pytest.skip(f"{RENDERS} is missing: set TANDEM_TEST_DATA to a folder with renders of chairs in it")
    dataset = "shapes" if data == "shapes" else f"objects:{RENDERS}"
    setting: dict[str, Any] = {"width": 0.25, "batch_size": 16, "epochs": 6, "lr": 5e-4, "dataset": dataset}
    *_, unsplit_loss, _ = unsplit(plan_job(BaseOptions(**values(tmp_path, **setting))), Plateau())
    late = here(tmp_path, Plateau(), **{**setting, "stale_it": 1, "compress": ""})
    assert unsplit_loss < losses(late)[0][1] / 3
    assert late.summary["loss"] < 1.1 * unsplit_loss
