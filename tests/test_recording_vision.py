"""Models of torchvision that no tracer follows, and one that any does, cut by recording."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection

from common.partition.recording import record, recorded_parts
from tests.test_recording_unsplit import check_cuts, randomised

pytestmark = pytest.mark.slow


def _images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def _targets(count: int) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 40.0], [10.0, 12.0, 50.0, 60.0]])
    return [{"boxes": boxes[: 1 + i % 2], "labels": torch.tensor([1, 2])[: 1 + i % 2]} for i in range(count)]


def _detector(name: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 96} if name.startswith("faster") else {}
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=5, **sizes)
    for each in model.modules():
        if isinstance(mean := getattr(each, "running_mean", None), Tensor):
            mean.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"])
def test_detectors(name: str, training: bool) -> None:
    two: tuple[Any, ...] = (_images((60, 72), (64, 64)),)
    three: tuple[Any, ...] = (_images((60, 72), (64, 70), (50, 64)),)
    if training:
        two, three = (*two, _targets(2)), (*three, _targets(3))
    assert check_cuts(_detector(name), two, training=training, others=[(three, {})], most=4) > 2


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_resnet(training: bool) -> None:
    model = randomised(torchvision.models.resnet18(num_classes=10))
    images = torch.rand(2, 3, 32, 32)
    assert check_cuts(model, (images,), training=training, others=[((torch.rand(3, 3, 32, 32),), {})], most=8) > 5


def test_a_recording_of_a_detector_knows_its_gradients() -> None:
    model = _detector("fasterrcnn_mobilenet_v3_large_320_fpn")
    recording = record(model, (_images((60, 72)), _targets(1)), {}, training=True)
    names = [step.name for step in recording.steps]
    head, _ = recorded_parts(model.train(), {True: [recording]}, {True: [names.index("conv2d_30") + 1]})
    *tensors, _ = head(_images((60, 72)), _targets(1))
    assert {each.requires_grad for each in tensors} == {True, False}
