"""Split training is unsplit training: every loss and every parameter and buffer, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.link.contexts import parse_context
from common.link.emulate import Link, Route
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.unsplit import train_unsplit

SEED = 3
EPOCHS = 2
BATCH_SIZE = 16

# Behind the stem, inside residual branches and blocks, and near the loss.
RESNET_CUTS = ("input", "features.0", "features.4.branch.1", "add_3", "features.9", "pooling", "classifier")
VGG_CUTS = ("features.0.conv", "features.3", "classifier.0", "classifier.1.norm")


def flags(images: str, run_dir: Path, **more: Any) -> dict[str, Any]:
    shared = {"dataset": images, "run_dir": run_dir, "seed": SEED, "epochs": EPOCHS, "batch_size": BATCH_SIZE}
    return {**shared, "dropout": 0.3, "lr": 0.02, "stale_it": 0, "compress": "none", **more}


def unsplit(model: str, images: str, **more: Any) -> tuple[list[float], str]:
    run = train_unsplit(model, images, seed=SEED, epochs=EPOCHS, batch_size=BATCH_SIZE, dropout=0.3, lr=0.02, **more)
    return run.losses, run.digest


def result(run: Finished) -> tuple[list[float], str]:
    rows = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows], run.summary["parameters_digest"]


def in_process(**values: Any) -> Finished:
    options = BaseOptions(**values)
    return train_in_process(plan_job(options), options)


def over_tcp(server: Server | Link, **values: Any) -> Finished:
    ports = (server.port, server.hyperport) if isinstance(server, Server) else [port for _, port in server.addresses]
    options = ClientOptions(port=ports[0], hyperport=ports[1], **values)
    return train_with_server(plan_job(options), options)


@pytest.mark.slow
@pytest.mark.parametrize("cut", RESNET_CUTS)
def test_resnet_at_k0_is_unsplit_training(images: str, tmp_path: Path, cut: str) -> None:
    run = in_process(**flags(images, tmp_path, model="resnet20", cut=cut))
    assert result(run) == unsplit("resnet20", images)


@pytest.mark.slow
@pytest.mark.parametrize("cut", VGG_CUTS)
def test_vgg_at_k0_is_unsplit_training(images: str, tmp_path: Path, cut: str) -> None:
    run = in_process(**flags(images, tmp_path, model="VGG11", cut=cut))
    assert result(run) == unsplit("VGG11", images)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "cut"), [("resnet20", "features.5.branch.0"), ("VGG11", "classifier.1")])
def test_over_tcp_k0_is_unsplit_training(server: Server, images: str, tmp_path: Path, model: str, cut: str) -> None:
    run = over_tcp(server, **flags(images, tmp_path, model=model, cut=cut))
    assert result(run) == unsplit(model, images)


@pytest.mark.slow
def test_the_learning_rate_falls_on_both_sides_where_the_user_says(server: Server, images: str, tmp_path: Path) -> None:
    steps: dict[str, Any] = {"milestones": (1,), "gamma": 0.5}
    run = over_tcp(server, **flags(images, tmp_path, model="resnet20", cut="features.5", **steps))
    assert result(run) == unsplit("resnet20", images, **steps) != unsplit("resnet20", images)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "int8+zstd"])
def test_k3_over_a_slow_jittery_link_is_the_in_process_run(
    server: Server, images: str, tmp_path: Path, codec: str
) -> None:
    values = flags(images, tmp_path, model="resnet20", cut="features.6", stale_it=3, compress=codec)
    routes = [Route(("127.0.0.1", 0), ("127.0.0.1", port)) for port in (server.port, server.hyperport)]
    with Link(parse_context("20/30/30/15"), routes, seed=1) as link:
        remote = over_tcp(link, **values)
    local = in_process(**values)
    assert result(remote) == result(local)
    for key in ("accuracy", "loss", "bytes_up_per_step", "steps", "samples"):
        assert remote.summary[key] == local.summary[key], key


@pytest.mark.slow
def test_staleness_is_bounded_and_drains_with_each_epoch(images: str, tmp_path: Path) -> None:
    run = in_process(**flags(images, tmp_path, model="resnet20", cut="features.2", stale_it=1))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["staleness"] for row in rows] == [1, 1, 0] * EPOCHS
    assert [row["step"] for row in rows] == list(range(3 * EPOCHS))


@pytest.mark.slow
def test_replay_repeats_dropout_and_counts_batchnorm_once(images: str, tmp_path: Path) -> None:
    """With rate 0 the weights never move, so the statistics must be those of one pass over the batches."""
    values = flags(images, tmp_path, model="resnet20", cut="pooling", lr=1e-30, optim="imdb")
    serial, stale = in_process(**values), in_process(**{**values, "stale_it": 2})
    assert result(stale) == result(serial)


@pytest.mark.slow
def test_eager_training_learns_within_the_bound(server: Server, images: str, tmp_path: Path) -> None:
    run = over_tcp(server, **flags(images, tmp_path, model="resnet20", cut="features.2", stale_it=2, schedule="eager"))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * EPOCHS
    assert all(0 <= row["staleness"] <= 2 for row in rows)


@pytest.mark.slow
def test_the_error_feedback_of_the_paper_changes_the_gradients(images: str, tmp_path: Path) -> None:
    values = flags(images, tmp_path, model="resnet20", cut="features.2", compress="", compress_up="int8", lr=0.1)
    with_feedback, without = in_process(**{**values, "use_EF": 1}), in_process(**values)
    assert result(with_feedback)[1] != result(without)[1]
    assert result(with_feedback)[0] == pytest.approx(result(without)[0], rel=0.05)


@pytest.mark.slow
def test_edge_only_and_cloud_only_send_what_they_must(server: Server, images: str, tmp_path: Path) -> None:
    cloud_only = over_tcp(server, **flags(images, tmp_path, model="resnet20", split_index=0))
    assert cloud_only.summary["bytes_up_per_step"] > 13 * 3 * 32 * 32 * 4  # 40 images in 3 batches, as floats
    assert cloud_only.summary["bytes_down_per_step"] < 1024  # losses, but no gradients
    assert result(cloud_only) == unsplit("resnet20", images)
