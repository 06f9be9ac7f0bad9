"""Models have the published sizes, the promised slices, and weights that the seed fixes."""

import math
import re

import pytest
import torch
from torch import nn

from common.errors import UsageError
from common.models import build_model
from common.models.registry import MODELS, find, input_shape

PARAMETERS = {
    "VGG11": 28_163_146,
    "VGG16": 33_658_826,
    "VGG19": 38_969_802,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
    "resnet50_imgnet": 23_528_522,
    "resnet20": 272_474,
    "resnet56": 855_770,
    "Mobilenetv3_large": 4_212_022,
    "BILSTM": 1_973_642,
}
SLICES = {
    "VGG11": 11,
    "VGG16": 16,
    "VGG19": 19,
    "resnet18": 11,
    "resnet50": 19,
    "resnet50_imgnet": 19,
    "resnet20": 12,
    "resnet56": 30,
    "Mobilenetv3_large": 18,
    "BILSTM": 5,
}


def slices(module: nn.Module) -> list[nn.Module]:
    """Cut as the cutter does: only plain Sequentials are opened."""
    found: list[nn.Module] = []
    for child in module.children():
        found.extend(slices(child) if type(child) is nn.Sequential else [child])
    return found


def device(name: str) -> torch.device:
    """Without storage, but for an LSTM, which takes longer there."""
    return torch.device("cpu" if name == "BILSTM" else "meta")


def on_meta(name: str, num_classes: int = 10, dropout: float = 0.0) -> nn.Module:
    """Build a model without storage: quick, for questions of structure."""
    with device(name):
        return build_model(name, num_classes, dropout=dropout)


def example(name: str) -> torch.Tensor:
    """Two samples, on the model's device."""
    with device(name):
        (inputs,) = find(name).example(2)
    assert isinstance(inputs, torch.Tensor)
    return inputs


def test_the_tables_are_complete() -> None:
    assert PARAMETERS.keys() == SLICES.keys() == MODELS.keys()


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_are_as_many_as_published(name: str, parameters: int) -> None:
    assert sum(weight.numel() for weight in on_meta(name).parameters()) == parameters


@pytest.mark.parametrize(("name", "count"), SLICES.items())
def test_slices(name: str, count: int) -> None:
    assert len(slices(on_meta(name))) == count


@pytest.mark.parametrize("name", MODELS)
def test_slices_in_a_row_are_the_model(name: str) -> None:
    x = example(name)

    for part in slices(on_meta(name, num_classes=7)):
        x = part(x)

    assert x.shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_models_can_be_traced(name: str) -> None:
    model = on_meta(name)

    traced = torch.fx.symbolic_trace(model)

    assert traced(example(name)).shape == (2, 10)


def test_shapes_between_the_slices_of_vgg19() -> None:
    x, shapes = torch.empty(2, 3, 32, 32, device="meta"), []
    for part in slices(on_meta("VGG19")):
        x = part(x)
        shapes.append(tuple(x.shape[1:]))

    stages = [
        ((64, 32, 32), 1),
        ((64, 16, 16), 1),
        ((128, 16, 16), 1),
        ((128, 8, 8), 1),
        ((256, 8, 8), 3),
        ((256, 4, 4), 1),
        ((512, 4, 4), 3),
        ((512, 2, 2), 4),
        ((512, 1, 1), 1),
        ((4096,), 2),
        ((10,), 1),
    ]
    assert shapes == [shape for shape, times in stages for _ in range(times)]


def test_a_real_forward_and_backward() -> None:
    model = build_model("resnet20", num_classes=4)

    loss = model(torch.randn(2, 3, 32, 32)).square().sum()
    loss.backward()

    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize(("name", "layers"), [("VGG19", 2), ("resnet50", 1)])
def test_dropout_is_there_when_asked_for(name: str, layers: int) -> None:
    found = [module for module in on_meta(name, dropout=0.3).modules() if isinstance(module, nn.Dropout)]

    assert [module.p for module in found] == [0.3] * layers
    assert not any(isinstance(module, nn.Dropout) for module in on_meta(name).modules())
    assert len(slices(on_meta(name, dropout=0.3))) == 19


def test_the_seed_fixes_the_weights() -> None:
    torch.manual_seed(3)
    first = build_model("resnet20").state_dict()
    torch.manual_seed(3)
    second = build_model("resnet20").state_dict()

    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_follow_the_paper() -> None:
    torch.manual_seed(0)
    model = build_model("resnet56")

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 30_000:
            expected = math.sqrt(2 / (9 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
        elif isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
            assert module.bias.eq(0).all()


def test_names_are_matched_in_any_case() -> None:
    assert input_shape("vgg19") == input_shape("VGG19") == (3, 32, 32)
    assert len(slices(on_meta("ReSNet20"))) == 12


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    message = "no model is called 'vgg18'; did you mean VGG1"
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        build_model("vgg18")

    others = "torchvision:NAME, timm:NAME, ultralytics:NAME, hf:TYPE, path/to/file.py:factory, path/to/file.keras"
    assert str(caught.value).endswith(f"Known: {', '.join(MODELS)}, {others}")
    with pytest.raises(UsageError, match="resnet50"):
        input_shape("resnet5O")
