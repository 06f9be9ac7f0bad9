"""The reference: an ordinary training loop on one machine, which knows nothing of heads, tails and schedules."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from common.datasets.batches import Batches
from common.datasets.registry import load_dataset
from common.models import build_model
from common.models.registry import input_shape
from common.training.digest import combined_digest, parameter_digests
from common.training.randomness import step_stream


@dataclass(frozen=True)
class Unsplit:
    """What the reference came to."""

    losses: list[float]
    digest: str
    accuracy: float
    loss: float
    """Held-out, mean over samples."""


def train_unsplit(
    model_name: str,
    images: str,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    dropout: float = 0.0,
    lr: float,
    milestones: Sequence[int] = (81, 122),
    gamma: float = 0.1,
) -> Unsplit:
    """Train with the `resnet` preset written out."""
    torch.manual_seed(seed)
    model = build_model(model_name, 10, dropout=dropout)
    data = load_dataset(images, Path(), num_classes=10, input_shape=input_shape(model_name), seed=seed)
    train = Batches(data.train, data, batch_size, seed, training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
    scheduler = MultiStepLR(optimizer, list(milestones), gamma)
    losses: list[float] = []
    for epoch in range(epochs):
        model.train()
        for batch in train.epoch(epoch):
            with step_stream(seed, len(losses), torch.device("cpu")):
                outputs = model(batch.inputs)
            loss = nn.functional.cross_entropy(outputs, batch.labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    model.eval()
    right, loss_sum = 0, 0.0
    with torch.no_grad():
        for batch in Batches(data.test, data, batch_size, seed, training=False).epoch(0):
            outputs = model(batch.inputs)
            right += int((outputs.argmax(1) == batch.labels).sum())
            loss_sum += nn.functional.cross_entropy(outputs, batch.labels).item() * len(batch.labels)
    count = len(data.test.labels)
    return Unsplit(losses, combined_digest(parameter_digests(model)), right / count, loss_sum / count)
