"""A tail that begins with an in-place operation trains as the whole model does."""

import pytest
import torch
from torch import Tensor, nn

from common.codec import make_codec
from common.partition import trace
from common.training import Head, Tail
from common.training.exchange import Outgoing
from common.training.optimizers import Updater, find_preset
from common.wire.framing import Frame, FrameReader, feed, pack


def build() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers)


def objective(outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    return nn.functional.cross_entropy(outputs, labels), 0


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(5, 1, 8, 8, generator=generator), torch.randint(0, 3, (5,), generator=generator)


def carried(outgoing: Outgoing) -> Frame:
    """A message as it comes out of a connection: in memory of its own."""
    reader = FrameReader()
    (frame,) = [frame for part in pack(outgoing.message, outgoing.buffers) for frame in feed(reader, part)]
    return frame


def train_unsplit(steps: int) -> tuple[list[float], dict[str, Tensor]]:
    model, losses = build().train(), []
    updater = Updater(find_preset("resnet"), model)
    for step in range(steps):
        inputs, labels = batch(step)
        loss, _ = objective(model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        updater.apply(0)
        losses.append(loss.item())
    return losses, model.state_dict()


def train_split(cut: int, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    graph = trace(build(), (batch(0)[0],))
    parts, losses = graph.parts(cut), []
    codec = make_codec("none")
    updaters = [Updater(find_preset("resnet"), part) for part in parts]
    head = Head(parts[0], updaters[0], codec, codec, gradients_wanted=graph.gradients_wanted(cut), stale_it=0, seed=0)
    tail = Tail(
        parts[1],
        updaters[1],
        codec,
        codec,
        objective=objective,
        example=graph.find(cut).tensors,
        evaluation_example=graph.find(cut).tensors,
        example_size=5,
        most_bytes=1 << 20,
        batch_size=5,
        num_classes=10,
        seed=0,
    )
    for step in range(steps):
        inputs, labels = batch(step)
        outgoing = head.encode(head.forward(step, 0, (inputs,), labels, torch.arange(5)))
        upload = tail.decode(carried(outgoing))
        answer = tail.encode(tail.step(upload))
        received = head.decode(carried(answer))
        head.backward(received)
        losses.append(received.loss)
    return losses, parts[0].state_dict() | parts[1].state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(6))
def test_split_training_is_unsplit_training(cut: int) -> None:
    losses, weights = train_unsplit(4)

    split_losses, split_weights = train_split(cut, 4)

    assert split_losses == losses
    assert split_weights.keys() == weights.keys()
    assert all(torch.equal(split_weights[key], weights[key]) for key in weights)
