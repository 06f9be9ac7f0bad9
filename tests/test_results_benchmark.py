"""The benchmark of the five workloads: its grid, its parts of the data, its table."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baseline import sweep
from benchmarks import results
from benchmarks.results import AXES, WORKLOADS, Options, chosen_workloads, grid, rows_of, write_images, write_texts
from common.errors import DataError, UsageError
from common.models.registry import MODELS


def images(path: Path, count: int = 6) -> Path:
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        arrays[f"{part}_images"] = np.arange(4 * count, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
        arrays[f"{part}_labels"] = np.arange(4 * count) % 4
    np.savez(path, **arrays)
    return path


def test_the_five_are_those_of_the_paper() -> None:
    assert set(WORKLOADS) == {"VGG19", "resnet50", "resnet50_imgnet", "Mobilenetv3_large", "BILSTM"} <= set(MODELS)


def test_the_grid_is_each_setting_seed_by_seed() -> None:
    options = Options(texts="a,b", seeds=(0, 1))
    asked = [values for values, _ in grid(options, chosen_workloads(options))]
    assert [(each["workload"], each["setting"], each["compress"], each["seed"]) for each in asked] == [
        ("BILSTM", setting, "none" if setting == "unsplit" else "default", seed)
        for seed in ("0", "1")
        for setting in ("unsplit", "K=1", "K=3")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(), "no data is given: --images FILE.npz"),
        (Options(workloads=("VGG91",)), "--workloads has no VGG91; did you mean VGG19"),
        (Options(workloads=("VGG19",), texts="a,b"), "--workloads VGG19 needs --images"),
    ],
)
def test_workloads_that_cannot_be(options: Options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen_workloads(options)


def test_the_first_images_of_the_first_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "part.npz", images(tmp_path / "all.npz"), 2, 3, 2)
    with np.load(tmp_path / "part.npz") as part:
        assert part["train_labels"].tolist() == [0, 1, 0, 1, 0, 1]
        assert part["train_images"][:, 0, 0, 0].tolist() == [0, 1, 4, 5, 8, 9]
        assert part["test_labels"].tolist() == [0, 1, 0, 1]
    with pytest.raises(DataError, match="has fewer than 7 train images of a class; give a smaller --scale"):
        write_images(tmp_path / "part.npz", tmp_path / "all.npz", 2, 7, 2)
    with pytest.raises(DataError, match="cannot be read"):
        write_images(tmp_path / "part.npz", tmp_path / "none.npz", 2, 7, 2)


def test_the_first_texts(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text('text,label\n"a, b",0\nc,1\nd,0\n')
    write_texts(tmp_path / "part.csv", tmp_path / "all.csv", 2)
    with (tmp_path / "part.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["text", "label"], ["a, b", "0"], ["c", "1"]]
    with pytest.raises(DataError, match="cannot be read"):
        write_texts(tmp_path / "part.csv", tmp_path / "none.csv", 2)


def test_the_table_compares_runs_of_one_seed() -> None:
    def row(setting: str, seed: int, accuracy: float) -> dict[str, str]:
        facts = {"accuracy": accuracy, "bytes_up_per_step": 2000, "bytes_down_per_step": 1000, "steps": 9}
        given = {"workload": "VGG19", "setting": setting, "seed": seed, **facts}
        return {name: str(value) for name, value in given.items()}

    table = rows_of([row("unsplit", 0, 0.5), row("unsplit", 1, 0.7), row("K=3", 0, 0.45), row("K=3", 1, 0.67)])
    assert [each["setting"] for each in table] == ["unsplit", "K=3"]
    assert table[1]["points below unsplit"] == pytest.approx(4.0)
    assert table[1]["accuracy %"] == pytest.approx(56.0)
    assert table[0]["+-"] == pytest.approx(14.142, abs=1e-3)
    assert table[0]["chance %"] == 25


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_one_workload_runs_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{word} {i % 3},{int(word == 'good')}" for i in range(8) for word in ("good", "bad")]
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text("\n".join(["text,label", *lines]))
    texts = f"{tmp_path / 'train.csv'},{tmp_path / 'test.csv'}"
    words = ["--texts", texts, "--seeds", "0", "--scale", "0.005", "--epochs", "1", "--out", str(tmp_path / "r.csv")]
    monkeypatch.setattr(sys, "argv", ["results", *words])
    results.main()
    first = capsys.readouterr().out
    rows = sweep.read(tmp_path / "r.csv", AXES)
    assert [key[1] for key in rows] == ["unsplit", "K=1", "K=3"]
    unsplit, split, *_ = rows.values()
    assert float(unsplit["bytes_up_per_step"]) == 0 < float(split["bytes_up_per_step"])

    def never(*_: object) -> dict[str, str]:
        raise AssertionError("a run of the table was run again")

    monkeypatch.setattr(results, "run", never)
    results.main()
    assert capsys.readouterr().out == first
