"""What the tests share: one thread for torch, small data, and a server in this process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from common.training.serve import Server
from tests.serving import serving

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
    """A server that takes any job of the project's own models."""
    with serving(tmp_path / "server") as server:
        yield server
