"""The accuracy benchmark: its grid, that it goes on where it stopped, and what it says of the results."""

import dataclasses
import sys
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import (
    UNSPLIT,
    Options,
    Run,
    append_run,
    complete,
    grid,
    read_runs,
    rows_of,
    summarise,
    verdict,
)
from common.errors import DataError, UsageError


def options(tmp_path: Path, **others: object) -> Options:
    given = {"compress_up": ("none", "int8"), "compress_down": ("none",), "seeds": (0, 1), "epochs": 1}
    return Options(out=tmp_path / "runs" / "accuracy.csv", **{**given, **others})  # type: ignore[arg-type]


def run(up: str, down: str, seed: int, accuracy: float, nbytes: float) -> Run:
    accuracies = f"0.1 {accuracy - 0.01} {accuracy}"
    settings = ("digits", "resnet20", "", 3, 32, "resnet", 0.05)
    return Run(*settings, up, down, 3, seed, accuracies, nbytes / 2, nbytes / 2, 1.0)


RUNS = [
    *(run(UNSPLIT, UNSPLIT, seed, 0.900 + seed / 1000, 0) for seed in (0, 1)),
    *(run("none", "none", seed, 0.901, 4000) for seed in (0, 1)),
    *(run("int8", "int8", seed, 0.897 + seed / 500, 1000) for seed in (0, 1)),
    *(run("int2", "int2", seed, 0.5, 100) for seed in (0, 1)),
]


def test_the_grid_is_each_with_each_seed_by_seed(tmp_path: Path) -> None:
    asked = [(r.seed, r.stale_it, r.compress_up, r.compress_down) for r in grid(options(tmp_path, stale_it=(0, 3)))]

    assert asked[:5] == [
        (0, 0, UNSPLIT, UNSPLIT),
        (0, 0, "none", "none"),
        (0, 0, "int8", "none"),
        (0, 3, "none", "none"),
        (0, 3, "int8", "none"),
    ]
    assert len(asked) == len(set(asked)) == 10


def test_pairs_go_one_by_one(tmp_path: Path) -> None:
    pairs = options(tmp_path, compress_down=("fp16", "int8"), pairs=True, seeds=(0,))

    assert [(r.compress_up, r.compress_down) for r in grid(pairs)][1:] == [("none", "fp16"), ("int8", "int8")]


def test_what_stands_in_the_table_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Run] = []

    def train(asked: Run, _options: Options) -> Run:
        trained.append(asked)
        return dataclasses.replace(asked, accuracies="0.25 0.5", bytes_up=1.5, bytes_down=2.5, seconds=0.1)

    monkeypatch.setattr(accuracy, "train", train)
    first = complete(options(tmp_path, seeds=(0,)))
    both = complete(options(tmp_path))

    assert len(trained) == 6
    assert both[:3] == first
    assert read_runs(options(tmp_path).out) == both
    assert complete(options(tmp_path, limit_h=0.0)) == both
    assert complete(options(tmp_path, limit_h=0.0, epochs=2)) == []
    assert complete(options(tmp_path, limit_h=0.0, lr=0.5)) == []


def test_the_table_compares_with_unsplit_and_with_plain_floats() -> None:
    rows = rows_of(summarise(RUNS))

    assert [row["up"] for row in rows] == [UNSPLIT, "none", "int8", "int2"]
    assert [row["fewer bytes"] for row in rows] == ["", 1.0, 4.0, 40.0]
    assert rows[2]["points below"] == pytest.approx(0.25)
    assert rows[2]["+-"] == pytest.approx(0.1414, abs=1e-3)
    assert rows[2]["error of that"] == pytest.approx(0.05)  # of 0.3 and 0.2 points, seed by seed
    assert rows_of(summarise(RUNS[:1] + RUNS[4:5]))[1]["points below"] == pytest.approx(0.3)


def test_an_accuracy_is_the_mean_behind_the_last_epochs() -> None:
    first, second = (summarise(RUNS[:1], last_epochs)[0].accuracy for last_epochs in (1, 2))

    assert (first, second) == pytest.approx((0.9, 0.895))


def test_the_verdict_is_the_fewest_bytes_that_cost_little() -> None:
    assert verdict(summarise(RUNS)).startswith(
        "fewest bytes within 0.5 points of unsplit: int8 up, int8 down, K = 3: 0.25"
    )
    assert verdict(summarise(RUNS[:2] + RUNS[6:])) == "no choice is within 0.5 points of unsplit"
    assert "nothing can be said" in verdict(summarise(RUNS[2:]))


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")

    with pytest.raises(DataError, match=r"other\.csv is no table of this benchmark"):
        read_runs(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot", "a.gif"], "must end in"),
        (["--compress-up", "int9"], "int9"),
        (["--compress-down", "delta+int8"], "delta"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["accuracy", *flags])

    with pytest.raises(UsageError, match=message):
        accuracy.main()


@pytest.mark.slow
def test_a_small_grid_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--compress-up int8 --compress-down int8 --seeds 0 --epochs 1 --batch-size 256 --out {tmp_path / 'a.csv'}"
    monkeypatch.setattr(sys, "argv", ["accuracy", *words.split(), "--plot", str(tmp_path / "a.png")])

    accuracy.main()

    unsplit, coded = read_runs(tmp_path / "a.csv")
    assert unsplit.bytes_up == 0 < coded.bytes_up
    assert 0.05 < coded.accuracy(1) <= 1
    assert "int8" in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    for each in RUNS:
        append_run(tmp_path / "a.csv", each)

    assert read_runs(tmp_path / "a.csv") == RUNS
