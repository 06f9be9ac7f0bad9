"""ultralytics' models by name: built from the files that come with it, and its import leaves no mark."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from common.errors import UsageError
from common.models import build_model
from common.models.of_ultralytics import _names
from common.models.registry import choose, find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ultralytics") is None or find_spec("cv2") is None, reason="needs the extra zoo"),
]
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name", ["yolov8n", "yolo11n-seg", "yolov8n-pose", "rtdetr-l", "yolov8s-worldv2", "yolo26n-obb"]
)
def test_a_detector_runs(name: str) -> None:
    chosen = find(f"ultralytics:{name}")

    with torch.no_grad():
        outputs = chosen.build(5).eval()(*chosen.example(1, (3, 128, 128)))

    assert chosen.example(1)[0].shape == (1, 3, 640, 640)
    assert outputs is not None
    with pytest.raises(UsageError, match="is no image classifier"):
        choose(f"ultralytics:{name}")


@pytest.mark.parametrize("name", ["yolov8n-cls", "YOLO11n-cls", "yolo11-cls-resnet18"])
def test_a_classifier_gives_logits_in_both_modes(name: str) -> None:
    chosen = choose(f"ultralytics:{name}")
    model = chosen.build(5)
    (x,) = chosen.example(2)

    logits = model.eval()(x)

    assert chosen.input_shape == (3, 224, 224)
    assert logits.shape == model.train()(x).shape == (2, 5)
    assert not torch.allclose(logits.sum(1), torch.ones(2))


def test_the_seed_fixes_the_weights() -> None:
    torch.manual_seed(3)
    first = build_model("ultralytics:yolov8n-cls", 5).state_dict()
    torch.manual_seed(3)
    second = build_model("ultralytics:yolov8n-cls", 5).state_dict()

    assert all(torch.equal(first[key], second[key]) for key in first)


def test_sizes_are_those_of_the_letter() -> None:
    parameters = [
        sum(each.numel() for each in build_model(f"ultralytics:yolov8{size}-cls", 1000).parameters())
        for size in ("", "n", "s")
    ]

    assert parameters[0] == parameters[1] < parameters[2]


def test_every_file_has_its_names() -> None:
    names = set(_names())

    assert {"yolov8n", "yolov8n-p6", "yoloe-11s-seg", "yolov10b", "rtdetr-x", "yolov8x-cls-resnet50"} <= names
    assert not any("/" in name or "." in name for name in names)


@pytest.mark.parametrize(
    "name",
    [
        "yolov8n.pt",
        "yolov8n.yaml",
        "../models/v8/yolov8",
        "/etc/passwd",
        "https://example.org/yolov8n.pt",
        "yolov8q",
        "",
    ],
)
def test_only_names_of_its_files_are_taken(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"ultralytics has no model {name!r}; the nearest are ")):
        choose(f"ultralytics:{name}")


PROGRAM = """
import os, sys, torch
from PIL import Image
before, save, opened, shown = dict(os.environ), torch.save, Image.open, repr(torch._tensor_str.PRINT_OPTS)
from common.models import build_model
build_model("ultralytics:yolov8n-cls", 3)
assert dict(os.environ) == before
assert torch.save is save and Image.open is opened
assert repr(torch._tensor_str.PRINT_OPTS) == shown
import ultralytics.utils
assert not ultralytics.utils.ONLINE and not ultralytics.utils.AUTOINSTALL
"""


def test_the_import_leaves_no_mark(tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("YOLO_", "XDG_"))}

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=here,
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(tmp_path / "matplotlib")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == list(here.rglob("*")) == []
