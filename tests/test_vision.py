"""torchvision imports beside any torch, and its detectors work where its compiled operators are missing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common import vision


def test_installing_twice_adds_one_finder() -> None:
    vision.install()
    before = list(sys.meta_path)

    vision.install()

    assert sys.meta_path == before


def run_python(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


INSTALL = "import sys; from common import vision; vision.install(); "


def test_installing_imports_nothing_heavy() -> None:
    loaded = run_python(INSTALL + "print('torch' in sys.modules, 'torchvision' in sys.modules)")

    assert loaded == ["False", "False"]


NMS = """
boxes, scores = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2], [3, 3, 4, 4]]), torch.tensor([1., 3, 2])
print(torchvision.ops.nms(boxes, scores, 0.5).tolist() == [1, 2])
"""


@pytest.mark.slow
def test_torchvision_imports_in_a_fresh_process() -> None:
    assert run_python(INSTALL + "import torch, torchvision, torchvision.transforms" + NMS) == ["True"]


@pytest.mark.slow
def test_torchvision_imports_after_an_attempt_that_failed() -> None:
    # The first attempt leaves torchvision.extension behind in sys.modules (and works on a CUDA install).
    attempt = "import contextlib, torch\nwith contextlib.suppress(RuntimeError): import torchvision\n"

    assert run_python(attempt + INSTALL + "import torchvision" + NMS) == ["True"]


@pytest.mark.slow
def test_operators_that_exist_are_not_replaced() -> None:
    compiled = """
import torch
theirs = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    theirs.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
theirs.impl("nms", lambda dets, scores, iou_threshold: torch.tensor([42]), "CPU")
import torchvision
print(torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5).item(), len(vision._libraries))
print(torchvision.extension._has_ops.__module__)
"""
    assert run_python(INSTALL + compiled) == ["42", "0", "torchvision.extension"]


def torchvision_sources() -> Iterator[str]:
    spec = find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    return (path.read_text() for path in Path(spec.origin).parent.rglob("*.py"))


@pytest.mark.slow
def test_every_operator_that_torchvision_calls_is_declared() -> None:
    called = {name for source in torchvision_sources() for name in re.findall(r"ops\.torchvision\.(\w+)", source)}

    assert {"nms", "roi_align", "deform_conv2d"} <= called
    assert called <= set(vision._SCHEMAS)


@pytest.mark.slow
def test_schemas_take_as_many_arguments_as_the_shape_rules_of_torchvision() -> None:
    taken = {
        name: len(torch._C.parse_schema("torchvision::" + name + schema).arguments)
        for name, schema in vision._SCHEMAS.items()
    }
    rules = dict(rule for source in torchvision_sources() if "register_meta(" in source for rule in shape_rules(source))

    assert len(rules) >= 13
    assert rules == {name: taken[name] for name in rules}


def shape_rules(source: str) -> Iterator[tuple[str, int]]:
    """Name and number of arguments of each operator for which a function is decorated in this source."""
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef):
            for decorator in map(ast.unparse, function.decorator_list):
                if rule := re.fullmatch(
                    r"(?:register_meta|[\w.]+register_fake)\('(?:torchvision::)?(\w+)'\)", decorator
                ):
                    yield rule[1], len(function.args.args)


@pytest.mark.slow
def test_an_operator_without_a_plain_version_says_so() -> None:
    from torchvision.ops import roi_pool  # noqa: PLC0415  costs a second, for the slow tests only

    if not vision._libraries:
        pytest.skip("torchvision's own operators are loaded here")
    features = torch.zeros(1, 3, 8, 8, requires_grad=True)

    with pytest.raises(NotImplementedError, match=r"torchvision::roi_pool .* Install a torchvision"):
        roi_pool(features, torch.tensor([[0, 1.0, 1, 3, 3]]), 2)


def detector(name: str) -> nn.Module:
    from torchvision.models import detection  # noqa: PLC0415  see above

    torch.manual_seed(0)
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=5)
    return model


def two_images() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images (3, 96, 128) and the boxes and labels in them; there is nothing in the second one."""
    generator = torch.Generator().manual_seed(0)
    targets = [
        {"boxes": torch.tensor([[10.0, 10, 60, 60], [30, 20, 90, 80]]), "labels": torch.tensor([1, 4])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return [torch.rand(3, 96, 128, generator=generator) for _ in targets], targets


DETECTORS = ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"]


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_detect(name: str) -> None:
    images, _ = two_images()

    with torch.no_grad():
        detections = detector(name).eval()(images)

    assert len(detections) == 2
    for detection in detections:
        assert len(detection["boxes"]) == len(detection["scores"]) == len(detection["labels"]) > 0
        assert all(values.isfinite().all() for values in detection.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_train(name: str) -> None:
    model = detector(name)

    losses = model(*two_images())
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    assert all(loss.isfinite() for loss in losses.values())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
