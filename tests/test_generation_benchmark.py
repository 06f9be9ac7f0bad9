"""The generation benchmark: what it trains, that it goes on where it stopped, and what it says."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from baseline import sweep
from benchmarks import generation
from benchmarks.generation import AXES, Options, Way, ways
from common.errors import DataError

LAST = {"unsplit": 0.1, "K = 1": 0.11, "K = 1, uncorrected": 0.15}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for the training; what was trained."""
    names: list[str] = []

    def train(options: Options, dataset: str, way: Way, seed: int) -> dict[str, str]:
        names.append(f"{way.name} of seed {seed}")
        folder = tmp_path / str(len(names))
        folder.mkdir()
        (folder / "epochs.csv").write_text(f"epoch,loss\n0,0.5\n1,{LAST[way.name] + 0.01 * seed}\n")
        row = dict(zip(AXES, generation._key(options, dataset, way, seed), strict=True))
        return {**row, **dict.fromkeys(sweep.RESULTS, ""), "folder": str(folder)}

    monkeypatch.setattr(generation, "train", train)
    return names


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> None:
    flags = ["--stale_it", "1", "--uncorrected", "1", "--epochs", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["generation", *flags, *words])
    generation.main()


@pytest.mark.slow
def test_it_compares_and_goes_on(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "generation.csv"
    run(monkeypatch, out, "--seeds", "0")
    assert trained == [f"{name} of seed 0" for name in LAST]
    run(monkeypatch, out, "--seeds", "0", "1", "--plot", str(tmp_path / "figure.png"))
    assert trained[3:] == [f"{name} of seed 1" for name in LAST]
    said = capsys.readouterr().out.splitlines()[-3:]
    for line, what in zip(said, ("0.1050", "0.1150", "0.1550"), strict=True):
        assert what in line
    assert "+0.0 %" in said[0]
    assert "+9.5 %" in said[1]
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > 1000
    (tmp_path / "1" / "epochs.csv").unlink()
    with pytest.raises(DataError, match="is gone"):
        run(monkeypatch, out, "--seeds", "0")


def test_what_is_trained() -> None:
    found = {way.name: way.flags for way in ways(Options(stale_it=(0, 2), uncorrected=(2,)))}
    assert found == {
        "unsplit": {"split_index": 0},
        "K = 0": {"stale_it": 0},
        "K = 2": {"stale_it": 2},
        "K = 2, uncorrected": {"stale_it": 2, "lookahead": 0.0, "late_rate": 0.0, "late_momentum": 0.0, "patience": 2},
    }
