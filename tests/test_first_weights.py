"""Weights to start from: torchvision's in our names, a user's own files, the same on both sides, and never code."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UsageError
from common.models import build_model, torchvision_weights, vgg
from common.models.first_weights import FirstWeights, first_weights, load_state
from common.models.weight_files import read_weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of downloaded files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def randomised(model: nn.Module) -> nn.Module:
    """With statistics and biases that matter, for evaluation."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model.eval()


def put(cache: Path, name: str) -> nn.Module:
    """Put made-up weights for torchvision's model where a download would have put the real ones."""
    from torchvision import models  # noqa: PLC0415

    torch.manual_seed(1)
    model = randomised(models.get_model(name, weights=None))
    torch.save(model.state_dict(), cache / Path(torchvision_weights.weights_of(name).url).name)
    return model


def started(model: str, weights: FirstWeights | None, num_classes: int = 1000) -> nn.Module:
    torch.manual_seed(2)
    module = build_model(model, num_classes)
    if weights is not None:
        weights.load_into(module, model, num_classes)
    return module.eval()


@pytest.mark.slow
def test_resnet_computes_what_torchvisions_does(cache: Path) -> None:
    expected = put(cache, "resnet50")
    model = started("resnet50_imgnet", FirstWeights(None))

    images = torch.rand(2, 3, 64, 64)

    with torch.no_grad():
        torch.testing.assert_close(model(images), expected(images), rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_vgg_computes_what_torchvisions_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a narrow classifier: with its own width torchvision's takes half a gigabyte."""
    from torchvision import models  # noqa: PLC0415

    width, classes = 32, 5
    monkeypatch.setattr(vgg, "HIDDEN", width)
    theirs = models.VGG(models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True), init_weights=False)
    layers = [nn.Linear(512 * 49, width), nn.ReLU(), nn.Dropout(), nn.Linear(width, width), nn.ReLU(), nn.Dropout()]
    theirs.classifier = nn.Sequential(*layers, nn.Linear(width, classes))
    expected = randomised(theirs)
    model = build_model("VGG11", classes).eval()

    load_state(model, torchvision_weights.vgg(expected.state_dict()), "torchvision", classes, partly=True)

    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected(images), rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_blocks_of_the_cifar_form_are_torchvisions(cache: Path) -> None:
    theirs = put(cache, "resnet18")
    model, drawn = started("resnet18", FirstWeights(None), 10), started("resnet18", None, 10)
    x = torch.rand(2, 64, 16, 16)

    assert isinstance(model.features, nn.Sequential)
    with torch.no_grad():
        blocks = [block for stage in (theirs.layer1, theirs.layer2) for block in stage]  # type: ignore[union-attr]
        torch.testing.assert_close(model.features[1:5](x), nn.Sequential(*blocks)(x), rtol=1e-4, atol=1e-5)
    for name in ("features.0.0.weight", "features.0.1.running_mean", "classifier.weight"):
        assert torch.equal(model.state_dict()[name], drawn.state_dict()[name])


@pytest.mark.slow
def test_what_torchvisions_mobilenet_has_alike_is_taken(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = put(cache, "mobilenet_v3_large").state_dict()
    with caplog.at_level("INFO"):
        mine = started("Mobilenetv3_large", FirstWeights(None), 10).state_dict()

    pairs = {"features.0.conv.weight": "features.0.0.weight", "features.16.norm.weight": "features.16.1.weight"}
    pairs |= {"features.4.branch.depthwise.weight": "features.4.block.1.0.weight"}
    pairs |= {"features.11.branch.squeeze.weigh.3.bias": "features.11.block.2.fc2.bias"}
    pairs |= {"features.15.branch.project_norm.running_mean": "features.15.block.3.1.running_mean"}
    assert all(torch.equal(mine[ours], theirs[other]) for ours, other in pairs.items())
    (drawn,) = caplog.messages
    assert drawn.startswith("Mobilenetv3_large: weights from torchvision; drawn from the seed: features.0.image_norm.")
    assert drawn.endswith(" more")


@pytest.mark.slow
def test_torchvisions_own_models_take_their_weights(cache: Path) -> None:
    expected = put(cache, "mobilenet_v3_small").state_dict()

    state = started("torchvision:mobilenet_v3_small", FirstWeights(None), 10).state_dict()

    assert all(torch.equal(state[name], value) for name, value in expected.items() if "classifier.3" not in name)
    assert state["classifier.3.weight"].shape == (10, 1024)


def test_without_a_network_the_way_out_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UsageError) as caught:
        FirstWeights(None).label("resnet50_imgnet")

    assert str(caught.value) == (
        f"--pretrained needs torchvision's weights, which are not in {cache} and could not be downloaded (Temporary "
        "failure in name resolution): get https://download.pytorch.org/models/resnet50-0676ba61.pth on a machine with "
        "a network, and put it there or name it with --weights FILE"
    )


@pytest.mark.parametrize("model", ["resnet20", "BILSTM", "own:small", "timm:resnet10t"])
def test_models_that_torchvision_has_no_weights_for(model: str) -> None:
    with pytest.raises(UsageError, match=f"torchvision has no weights for {model}; .*or load a file with --weights"):
        FirstWeights(None).label(model)


def saved(folder: Path, state: dict[str, Any], suffix: str) -> Path:
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("num_classes", [10, 4])
def test_a_file_is_loaded_but_for_another_last_layer(tmp_path: Path, suffix: str, num_classes: int) -> None:
    torch.manual_seed(5)
    state = build_model("resnet20", 10).state_dict()
    weights = first_weights(False, saved(tmp_path, dict(state), suffix))

    mine = started("resnet20", weights, num_classes).state_dict()

    for name, value in state.items():
        assert torch.equal(mine[name], value) == (num_classes == 10 or not name.startswith("classifier.")), name


def test_a_training_programs_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    path = saved(tmp_path, {"epoch": 3, "state_dict": state}, ".pt")
    assert read_weights(path).keys() == state.keys()


@pytest.mark.slow
def test_a_file_in_torchvisions_names_is_translated(cache: Path, tmp_path: Path) -> None:
    put(cache, "resnet18")
    (path,) = cache.iterdir()

    by_file, by_flag = (started("resnet18", each, 10).state_dict() for each in (FirstWeights(path), FirstWeights(None)))

    assert all(torch.equal(by_file[name], by_flag[name]) for name in by_file)
    with pytest.raises(UsageError, match=r"resnet18.* has nothing for .* tensors: is it of another model"):
        started("resnet50", FirstWeights(path), 10)
    with pytest.raises(UsageError, match="has neither the names of VGG11's weights nor those of torchvision's"):
        started("VGG11", FirstWeights(path), 10)


class Trap:
    """Would write a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_file_with_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    for name, content in (("pickled.pth", pickle.dumps(Trap(tmp_path / "made"))), ("torn.pth", b"PK\x03\x04 torn")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"the weights in .*{name} cannot be read: ") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    torch.save({"model": Trap(tmp_path / "made")}, tmp_path / "saved.pth")
    with pytest.raises(UsageError, match="only tensors are ever loaded, and no code"):
        read_weights(tmp_path / "saved.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.3.relu.weight": torch.ones(1)}, "has features.3.relu.weight, which the model has not"),
        ({"features.0.1.bias": None}, "has no features.0.1.bias: is it of another model, or of a part of this one?"),
        (
            {"features.0.0.weight": torch.ones(16, 3, 7, 7)},
            "of another shape than in the model, 16x3x7x7 and 16x3x3x3",
        ),
        ({"classifier.weight": torch.ones(10, 3)}, "classifier.weight is of another shape"),
    ],
)
def test_a_file_of_another_model(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    state = {**build_model("resnet20", 10).state_dict(), **change}
    path = saved(tmp_path, {name: value for name, value in state.items() if value is not None}, ".safetensors")
    with pytest.raises(UsageError, match=re.escape(message)):
        started("resnet20", FirstWeights(path), 10)


def test_other_defects_of_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--pretrained loads torchvision's weights and --weights those of a file"):
        first_weights(True, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=r"--weights is .*x\.pth, and there is no such file"):
        first_weights(False, tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_bytes(b"not")
    with pytest.raises(UsageError, match=r"the weights in .*x\.safetensors cannot be read: "):
        read_weights(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="holds something else than tensors by name"):
        read_weights(saved(tmp_path, {"epoch": 3}, ".pt"))
    assert first_weights(False, None) is None
