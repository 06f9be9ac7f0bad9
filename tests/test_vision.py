"""torchvision imports beside any torch, and its nms is right where the compiled one is missing."""

import subprocess
import sys

import pytest
import torch

from common import vision


def brute_force_nms(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """Keep a box unless a better kept one overlaps it: the definition, pair by pair."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    shared = width * height
    return shared / (area - shared) if area > shared else 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_nms_is_the_brute_force_one(seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small whole coordinates: equal boxes, empty boxes and exact overlaps all occur.
    corners = torch.randint(0, 8, (40, 2), generator=generator)
    boxes = torch.cat([corners, corners + torch.randint(0, 6, (40, 2), generator=generator)], dim=1).double()
    scores = torch.randint(0, 10, (40,), generator=generator).double()

    kept = vision.nms(boxes, scores, threshold)

    assert kept.dtype == torch.int64
    assert kept.tolist() == brute_force_nms(boxes.tolist(), scores.tolist(), threshold)


def test_nms_of_no_boxes() -> None:
    kept = vision.nms(torch.empty(0, 4), torch.empty(0), 0.5)

    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


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
print(torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [1, 2])
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
"""
    assert run_python(INSTALL + compiled) == ["42", "0"]
