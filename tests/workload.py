"""Small data for each published model, and unsplit training of a plan: what the tests of workloads share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.models import build_model
from common.models.bilstm import LENGTH, VOCABULARY
from common.training.digest import combined_digest, parameter_digests
from common.training.randomness import step_stream
from discriminative.options import BaseOptions
from discriminative.recipe import Plan

SEED = 3
LR = 0.02


def write_samples(folder: Path, train: int = 4, test: int = 2) -> str:
    """Name of a data set of two classes, for models of images and of texts alike."""
    rng = np.random.default_rng(7)
    arrays: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        arrays[f"{part}_tokens"] = rng.integers(0, VOCABULARY, (count, LENGTH))
        arrays[f"{part}_labels"] = np.arange(count) % 2
    np.savez(folder / "samples.npz", **arrays)
    return f"npz:{folder / 'samples.npz'}"


def options(dataset: str, run_dir: Path, **more: Any) -> BaseOptions:
    """Of a serial run of one epoch without compression."""
    values = {"dataset": dataset, "run_dir": run_dir, "num_classes": 2, "epochs": 1, "batch_size": 2, "stale_it": 0}
    return BaseOptions(**{**values, "compress": "none", "lr": LR, "seed": SEED, **more})


def unsplit_digest(plan: Plan) -> str:
    """Of all parameters, after an ordinary loop over the plan's batches by the `resnet` preset written out."""
    torch.manual_seed(SEED)
    model = build_model(plan.job.model, plan.job.num_classes, dropout=plan.job.dropout)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=1e-4, nesterov=True)
    model.train()
    for step, batch in enumerate(plan.train.epoch(0)):
        with step_stream(SEED, step, torch.device("cpu")):
            outputs = model(batch.inputs)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs, batch.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return combined_digest(parameter_digests(model))
