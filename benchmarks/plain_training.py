"""Training without Tandem, for its memory alone: ``python -m benchmarks.plain_training MODEL STEPS BATCH_SIZE``."""

import sys

import torch
from torch import nn

from common.metering.gauges import own_peak


def main() -> None:
    """Print the largest resident memory of a process that trains a model, or with 0 steps makes an optimizer only."""
    name, steps, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    if not steps:
        optimizer([nn.Parameter(torch.zeros(1))])
    else:
        train(name, steps, batch_size)
    print(own_peak())


def train(name: str, steps: int, batch_size: int) -> None:
    """An ordinary loop on random images, with the preset ``resnet`` written out."""
    from common.models import build_model  # noqa: PLC0415  not part of an empty process
    from common.models.registry import input_shape  # noqa: PLC0415

    model = build_model(name, 10)
    update = optimizer(list(model.parameters()))
    for step in range(steps):
        images, labels = torch.rand(batch_size, *input_shape(name)), torch.arange(batch_size) % 10
        loss = nn.functional.cross_entropy(model(images), labels)
        update.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        update.step()
        print(f"step {step}: {loss.item():.3f}", file=sys.stderr)


def optimizer(parameters: list[nn.Parameter]) -> torch.optim.SGD:
    """As the preset has it."""
    return torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)


if __name__ == "__main__":
    main()
