"""Whatever crosses, in whatever memory: split training is unsplit training."""

import pytest
import torch
from torch import Tensor, nn

from common.training.optimizers import Updater, find_preset
from common.wire.messages import Activations
from tests.live import BATCH_SIZE, CASES, Case, batch, carried, objective, parts, split


def train_unsplit(case: Case, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    first, second = parts(case)
    updaters, losses = [Updater(find_preset("resnet"), each) for each in (first, second)], []
    for step in range(steps):
        inputs, labels = batch(step)
        loss, _ = objective(second(*first(inputs)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        for each in updaters:
            each.apply(0)
        losses.append(loss.item())
    return losses, state(first, second)


def train_split(case: Case, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    head, tail = split(case)
    losses = []
    for step in range(steps):
        inputs, labels = batch(step)
        outgoing = head.encode(head.forward(step, 0, (inputs,), labels, torch.arange(BATCH_SIZE)))
        assert isinstance(outgoing.message, Activations)
        assert len(outgoing.message.views) == case.views
        answer = head.decode(carried(tail.encode(tail.step(tail.decode(carried(outgoing))))))
        head.backward(answer)
        losses.append(answer.loss)
    return losses, state(head.part, tail.part)


def state(first: nn.Module, second: nn.Module) -> dict[str, Tensor]:
    return {f"{i}.{name}": each for i, part in enumerate((first, second)) for name, each in part.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_split_training_is_unsplit_training(case: Case) -> None:
    losses, weights = train_unsplit(case, 4)

    split_losses, split_weights = train_split(case, 4)

    assert split_losses == losses
    assert [name for name in weights if not torch.equal(weights[name], split_weights[name])] == []


def test_evaluation_sees_what_is_written_to_shared_memory() -> None:
    case = Case(lambda x: (x, x[:, 2:5]), lambda x, part: x.relu_() + part.sum(1, keepdim=True), groups=[[0, 1]])
    first, second = (each.eval() for each in parts(case))
    head, tail = split(case)
    inputs, labels = batch(0)
    with torch.no_grad():
        expected = objective(second(*first(inputs)), labels)[0].item()

    upload = head.forward(0, 0, (inputs,), labels, torch.arange(BATCH_SIZE), training=False)
    outgoing = head.encode(upload)

    assert tail.step(tail.decode(carried(outgoing))).loss == expected
