"""What the tests share: one thread for torch, small data, and a server in this process."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.training.serve import Server
from discriminative.recipe import WORKLOAD, make_recipe

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a data set of 40 training and 20 test images, 16 x 16, of 10 classes."""
    rng = np.random.default_rng(7)
    arrays = {}
    for part, count in (("train", 40), ("test", 20)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 10
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return f"npz:{path}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on free ports of this machine, in a thread of this process."""
    server = Server(
        {WORKLOAD: make_recipe()},
        pinned={},
        ip="127.0.0.1",
        port=0,
        hyperport=0,
        device="cpu",
        queue_limit=5,
        run_dir=tmp_path / "server",
    )
    thread = threading.Thread(target=server.serve, name="server")
    thread.start()
    yield server
    server.close()
    thread.join()
