"""What a user may get wrong about model and data ends the program with one line that says what to do."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from PIL import Image

from baseline import base
from common.command import run_command

pytestmark = pytest.mark.timeout(60)

Make: TypeAlias = Callable[[Path], list[str]]


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """`run_command` sets the root logger up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def images(folder: Path, labels: int = 3) -> str:
    arrays = {
        f"{part}_{kind}": value
        for part in ("train", "test")
        for kind, value in (("images", np.zeros((6, 8, 8, 3), np.uint8)), ("labels", np.arange(6) % labels))
    }
    np.savez(folder / "own.npz", **arrays)  # type: ignore[arg-type]
    return f"npz:{folder / 'own.npz'}"


def classes(folder: Path, *names: str, count: int = 5) -> str:
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8)).save(folder / name / f"{i}.png")
    return f"folder:{folder}"


def broken(folder: Path) -> list[str]:
    name = classes(folder / "set", "cats", "dogs")
    (folder / "set" / "cats" / "7.jpg").write_bytes(b"\xff\xd8 no more than its beginning")
    return ["--dataset", name, "--num_classes", "2"]


def empty_class(folder: Path) -> list[str]:
    name = classes(folder / "set", "cats")
    (folder / "set" / "dogs").mkdir()
    return ["--dataset", name, "--num_classes", "2"]


def empty_folder(folder: Path) -> list[str]:
    (folder / "set").mkdir()
    return ["--dataset", f"folder:{folder / 'set'}"]


def empty_train(folder: Path) -> list[str]:
    (folder / "set" / "train").mkdir(parents=True)
    return ["--dataset", f"folder:{folder / 'set'}"]


def reviews(folder: Path, content: bytes) -> list[str]:
    (folder / "reviews.csv").write_bytes(content)
    return ["--model", "BILSTM", "--num_classes", "2", "--dataset", f"csv:{folder / 'reviews.csv'}"]


GOOD = b"text,label\n" + 5 * b"good,1\nbad,0\n"

CASES: dict[str, tuple[Make, int, str, str]] = {
    "model": (lambda _: ["--model", "VGG91"], 2, "no model is called 'VGG91'", "did you mean VGG19"),
    "own model": (lambda f: ["--model", f"{f}/x.py:f"], 2, "there is no file", "x.py to load a model from"),
    "data set": (lambda _: ["--dataset", "cifar"], 2, "no data set is called 'cifar'", "did you mean cifar10"),
    "optimizer": (lambda _: ["--optim", "sgd"], 2, "unknown --optim 'sgd'", "resnet"),
    "cut": (lambda _: ["--cut", "features.99"], 2, "the model has no cut 'features.99'", "the nearest are"),
    "single samples": (
        lambda _: ["--model", "VGG11", "--batch_size", "1"],
        2,
        "--batch_size is 1, and the model cannot train on that: Expected more than 1 value per channel",
        "give 2 or more",
    ),
    "move": (lambda _: ["--move", "3:features.99"], 2, "the model has no cut 'features.99'", "the nearest are"),
    "texts for images": (
        lambda f: ["--dataset", f"csv:{f / 'a.csv'}"],
        2,
        "has no images, which the model takes",
        "known: digits",
    ),
    "images for texts": (lambda _: ["--model", "BILSTM"], 2, "has no texts, which the model takes", "known: imdb"),
    "few classes": (
        lambda f: ["--dataset", images(f), "--num_classes", "2"],
        1,
        "labels go up to 2 but --num_classes is 2",
        "pass --num_classes 3",
    ),
    "few digits": (lambda _: ["--num_classes", "20"], 1, "digits has 10 classes but", "pass --num_classes 10"),
    "few of CIFAR-10": (
        lambda _: ["--dataset", "cifar10", "--num_classes", "20"],
        1,
        "cifar10 has 10 classes but --num_classes is 20",
        "pass --num_classes 10",
    ),
    "few folders": (
        lambda f: ["--dataset", classes(f / "set", "cats", "dogs"), "--num_classes", "3"],
        1,
        "has 2 classes but --num_classes is 3",
        "pass --num_classes 2",
    ),
    "few labels": (
        lambda f: reviews(f, GOOD + b"so so,2\n"),
        1,
        "has 3 classes but --num_classes is 2",
        "pass --num_classes 3",
    ),
    "broken image": (broken, 1, "7.jpg is no image that can be read", "remove it, or put a good copy in its place"),
    "no folder": (lambda f: ["--dataset", f"folder:{f / 'x'}"], 1, "there is no folder", "a folder for each class"),
    "empty folder": (empty_folder, 1, "has no folders", "each class must have one"),
    "empty train": (empty_train, 1, "train has no folders", "each class must have one"),
    "empty class": (empty_class, 1, "dogs has no images in it", "put some there, or remove it"),
    "few images": (
        lambda f: ["--dataset", classes(f / "set", "cats", "dogs", count=1), "--num_classes", "2"],
        1,
        "too few images for a test split",
        "make folders train and val",
    ),
    "latin1": (lambda f: reviews(f, GOOD + b"caf\xe9,1\n"), 1, "line 12 has the byte 0xe9", "iconv -f latin1 -t utf-8"),
    "utf-16": (
        lambda f: reviews(f, GOOD.decode().encode("utf-16")),
        1,
        "is not UTF-8: line 1",
        "iconv -f utf-16 -t utf-8",
    ),
    "no reviews": (lambda f: reviews(f, b"text,label\n"), 1, "has a header and no texts", "a line for each text"),
    "empty file": (lambda f: reviews(f, b""), 1, "has no column text", "must name the columns, text and label"),
    "open quote": (lambda f: reviews(f, GOOD + b'"good,1\n'), 1, "is no CSV file: line 12", "must be closed"),
    "no csv": (
        lambda f: ["--model", "BILSTM", "--num_classes", "2", "--dataset", f"csv:{f / 'x.csv'}"],
        1,
        "there is no file",
        "name one that is there, as --dataset csv:FILE",
    ),
    "no npz": (lambda f: ["--dataset", f"npz:{f / 'x.npz'}"], 1, "there is no file", "as --dataset npz:FILE"),
    "not downloaded": (
        lambda f: ["--dataset", "tiny_imagenet", "--data_path", str(f)],
        1,
        "there is no tiny-imagenet-200 with train and val",
        "unzip it there",
    ),
}


@pytest.mark.parametrize(("make", "code", "wrong", "way_out"), CASES.values(), ids=CASES)
def test_one_line_says_what_is_wrong_and_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Make,
    code: int,
    wrong: str,
    way_out: str,
) -> None:
    run_dir = tmp_path / "runs"
    monkeypatch.setattr("sys.argv", ["base", "--run_dir", str(run_dir), *make(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run_command(base.main)
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    assert wrong in line
    assert way_out in line
    assert ended.value.code == code
    assert not output.out
    assert not list(run_dir.glob("*"))
