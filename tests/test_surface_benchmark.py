"""The surface benchmark: its grid, its table, its figure, and that it goes on where it stopped."""

import sys
from pathlib import Path

import pytest

from benchmarks import accuracy, surface
from benchmarks.accuracy import UNSPLIT, Run, read_runs, summarise
from benchmarks.surface import Options, grid_of, rows_of, surface_of
from common.errors import UsageError


def run(up: str, stale_it: int, seed: int, accuracy: float) -> Run:
    return Run("digits", "m", "", 3, 32, "resnet", 0.05, up, up, stale_it, seed, f"{accuracy}", 1.0, 1.0, 1.0)


RUNS = [
    *(run(UNSPLIT, 0, seed, 0.90) for seed in (0, 1)),
    *(run("none", 0, seed, 0.90) for seed in (0, 1)),
    *(run("int4", 3, seed, 0.88 + seed / 100) for seed in (0, 1)),
]
OPTIONS = Options(stale_it=(0, 3), compress=("none", "int4"))


def test_the_grid_has_each_codec_both_ways_at_each_bound() -> None:
    asked = list(accuracy.grid(grid_of(Options(seeds=(0,)), "texts")))
    assert len(asked) == 1 + 5 * 3
    assert {(each.compress_up, each.compress_down) for each in asked} == {
        (codec, codec) for codec in (UNSPLIT, "none", "int8", "int4")
    }
    assert {each.stale_it for each in asked} == {0, 1, 2, 3, 5}
    assert {(each.dataset, each.optim, each.cut) for each in asked} == {("synthetic", "imdb", "recurrent")}


def test_the_table_says_accuracy_and_what_is_lost() -> None:
    table = rows_of(surface_of("title", summarise(RUNS), OPTIONS))
    assert table == [
        {"K": 0, "none": "90.00 +- 0.00 (-0.00)", "int4": "-"},
        {"K": 3, "none": "-", "int4": "88.50 +- 0.71 (-1.50)"},
    ]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_small_surface_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        f"--stale-it 1 --compress int8 --seeds 0 --image-epochs 1 --text-epochs 1 --batch-size 256 "
        f"--out {tmp_path / 'a.csv'} --plot {tmp_path / 'a.png'}"
    )
    monkeypatch.setattr(sys, "argv", ["surface", *words.split()])
    surface.main()
    first = capsys.readouterr().out
    assert "images: accuracy_vgg.py:small on digits, 1 epochs, 2 of 2 runs" in first
    assert "texts: accuracy_bilstm.py:small on synthetic, 1 epochs, 2 of 2 runs" in first
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len(read_runs(tmp_path / "a.csv")) == 4

    def never(*_: object) -> Run:
        raise AssertionError("a run of the table was run again")

    monkeypatch.setattr(accuracy, "train", never)
    surface.main()
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot", "a.gif"], "must end in"),
        (["--plot", "nowhere/a.png"], "there is no folder nowhere"),
        (["--compress", "int9"], "int9"),
        (["--compress", "delta+int8"], "delta"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["surface", *flags])
    with pytest.raises(UsageError, match=message):
        surface.main()
