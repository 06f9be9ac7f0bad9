"""Small runs of the generative workload, and the same training unsplit: what its tests share."""

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.models.chairs import Chairs, Form
from common.training.digest import combined_digest, parameter_digests
from common.training.plateau import Plateau
from common.training.serve import Server
from common.wire.admission import ClientSecurity
from discriminative.recipe import Plan
from discriminative.train import Finished, train_in_process, train_with_server
from generative.options import BaseOptions, ClientOptions
from generative.recipe import WORKLOAD, make_recipe, plan_job
from tests.serving import serving

SEED = 3
QUICK = Plateau(patience=0)
"""So quick to lower the rate that a short run shows it."""


def values(run_dir: Path, **more: Any) -> dict[str, Any]:
    """Options of a run of seconds: 8 steps an epoch."""
    small = {"image_size": 32, "width": 0.05, "batch_size": 58, "epochs": 2, "lr": 2e-3, "seed": SEED, "samples": 2}
    return {**small, "run_dir": run_dir, "threads": 1, "compress": "none", "stale_it": 0, **more}


def here(run_dir: Path, plateau: Plateau = QUICK, **more: Any) -> Finished:
    """A run in this process."""
    options = BaseOptions(**values(run_dir, **more))
    return train_in_process(replace(plan_job(options), plateau=plateau), options)


def served(run_dir: Path, **more: Any) -> AbstractContextManager[Server]:
    """A server of generators."""
    return serving(run_dir, recipes={WORKLOAD: make_recipe()}, **more)


def remote(
    server: Any, run_dir: Path, plateau: Plateau = QUICK, protection: ClientSecurity | None = None, **more: Any
) -> Finished:
    """A run over TCP."""
    ports = {"port": server.port, "hyperport": server.hyperport}
    options = ClientOptions(**values(run_dir, reconnect_s=20.0, **ports, **more))
    return train_with_server(replace(plan_job(options), plateau=plateau), options, protection)


def losses(run: Finished) -> list[tuple[int, float]]:
    """Step and loss of each row."""
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def same(one: Finished, other: Finished) -> None:
    """Assert that two runs are equal, bit for bit."""
    assert losses(one) == losses(other)
    for key in ("parameters_digest", "loss", "steps", "samples", "epochs"):
        assert one.summary[key] == other.summary[key], key


def unsplit(plan: Plan, plateau: Plateau = QUICK) -> tuple[list[float], str, float, float]:
    """Losses, digest of all parameters, last held-out loss and last learning rate of an ordinary training loop."""
    torch.manual_seed(plan.job.seed)
    model = Chairs(plan.job.num_classes, Form.named(plan.job.model))
    optimizer = torch.optim.Adam(model.parameters(), plan.job.learning_rate, eps=1e-6)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=plateau.by, patience=plateau.patience)
    taken, held_out = [], 0.0
    for epoch in range(plan.job.epochs):
        model.train()
        for batch in plan.train.epoch(epoch):
            loss = _loss(model(batch.inputs), batch.labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            taken.append(loss.item())
        model.eval()
        with torch.no_grad():
            scored = [(_loss(model(b.inputs), b.labels).item(), len(b.ids)) for b in plan.test.epoch(epoch)]
        held_out = sum(loss * count for loss, count in scored) / sum(count for _, count in scored)
        scheduler.step(held_out)
    return taken, combined_digest(parameter_digests(model)), held_out, optimizer.param_groups[0]["lr"]


def _loss(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    mask = nn.functional.binary_cross_entropy_with_logits(images, targets.sigmoid())
    return nn.functional.mse_loss(images, targets) + 0.1 * mask
