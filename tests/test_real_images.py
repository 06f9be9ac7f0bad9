"""CIFAR-10 images through the real programs' path: they train, and to the unsplit accuracy."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from common.training.serve import Server
from discriminative.options import ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_with_server
from tests.unsplit import train_unsplit

REAL_DATA = Path(os.environ.get("TANDEM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> str:
    """800 training and 400 test images of CIFAR-10."""
    source = REAL_DATA / "cifar10_subset.npz"
    if not source.exists():
        pytest.skip(f"{source} is missing: set TANDEM_TEST_DATA to a folder with CIFAR-10 images in it")
    path = tmp_path_factory.mktemp("cifar") / "cifar.npz"
    with np.load(source) as arrays:
        order = np.random.default_rng(0).permutation(len(arrays["train_labels"]))[:800]
        train = {f"train_{part}": arrays[f"train_{part}"][order] for part in ("images", "labels")}
        test = {f"test_{part}": arrays[f"test_{part}"][::5] for part in ("images", "labels")}
    np.savez(path, **train, **test)
    return f"npz:{path}"


def train(server: Server, data: str, run_dir: Path, *, stale_it: int, compress: str) -> Finished:
    options = ClientOptions(
        model="resnet20",
        cut="features.4",
        dataset=data,
        epochs=3,
        lr=0.05,
        stale_it=stale_it,
        compress=compress,
        run_dir=run_dir,
        port=server.port,
        hyperport=server.hyperport,
    )
    return train_with_server(plan_job(options), options)


def epoch_losses(run: Finished) -> list[float]:
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [float(np.mean([row["loss"] for row in rows if row["epoch"] == epoch])) for epoch in range(3)]


def test_without_compression_it_is_the_unsplit_accuracy(server: Server, cifar: str, tmp_path: Path) -> None:
    run = train(server, cifar, tmp_path, stale_it=0, compress="none")
    unsplit = train_unsplit("resnet20", cifar, seed=0, epochs=3, batch_size=32, lr=0.05)
    first, _, last = epoch_losses(run)
    assert last < 0.9 * first
    assert run.summary["accuracy"] == unsplit.accuracy
    assert run.summary["loss"] == pytest.approx(unsplit.loss, rel=1e-12)
    assert run.summary["parameters_digest"] == unsplit.digest


def test_compressed_and_three_batches_ahead_it_learns_as_well(server: Server, cifar: str, tmp_path: Path) -> None:
    run = train(server, cifar, tmp_path, stale_it=3, compress="")
    first, _, last = epoch_losses(run)
    assert last < 0.9 * first
    assert run.summary["accuracy"] > 0.15  # chance is 0.1, give or take 0.015
