"""The modes benchmark: what it runs, that it goes on where it stopped, and what it says."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from baseline import sweep
from benchmarks import modes
from benchmarks.modes import AXES, Options, grid, modes_of
from common.errors import DataError, UsageError


class FakeTestbed:
    """Stands for the processes: each mode has numbers of its own."""

    trained: ClassVar[list[str]] = []

    def __init__(self, link: str, run_dir: Path, *, quiet: bool) -> None:
        self.run_dir = run_dir

    def __enter__(self) -> "FakeTestbed":
        return self

    def __exit__(self, *_: object) -> None: ...

    def train(self, flags: Sequence[str]) -> tuple[dict[str, Any], Path]:
        words = " ".join(flags)
        folder = self.run_dir / str(len(self.trained))
        self.trained.append(words)
        folder.mkdir(parents=True)
        local = "--gradients local" in words
        summary = {
            "accuracy": 0.5 if local else 0.75,
            "step_time_s": 0.1,
            "stages_s": {"edge": 0.06, "uplink": 0.09, "cloud": 0.08, "downlink": 0.02},
            "bytes_up_per_step": 1000.0,
            "bytes_down_per_step": 100.0 if local else 1000.0,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary, folder


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(modes, "Testbed", FakeTestbed)
    monkeypatch.setattr(FakeTestbed, "trained", [])
    return tmp_path / "modes.csv"


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["modes", "--out", str(out), *words])
    modes.main()


def test_all_modes_in_one_run(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, out, "--link", "4g", "--seeds", "0", "1", "--plot", str(out.with_suffix(".png")))
    # (0.08 + 0.09 + 0.08 + 0.02 + 0.05) / 0.09 is below 4: K = 3 is the least, and is not run twice.
    assert len(FakeTestbed.trained) == 2 * 5
    first = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in first.splitlines()[4:]] == [
        "cloud, K = 0",
        "cloud, K = 3 (least)",
        "cloud, K = 3",
        "local",
        "local, aligned every 20",
        "local, aligned every 5",
    ]
    assert out.with_suffix(".png").stat().st_size > 1000
    run(monkeypatch, out, "--link", "4g", "--seeds", "0", "1")
    assert len(FakeTestbed.trained) == 2 * 5
    assert capsys.readouterr().out == first


def test_the_grid_is_each_mode_seed_by_seed() -> None:
    asked = [(each["gradients"], each["stale_it"], each["align"], each["seed"]) for each in grid(Options(seeds=(0, 1)))]
    assert asked[:6] == [
        ("cloud", "0", "0", "0"),
        ("cloud", "least", "0", "0"),
        ("cloud", "3", "0", "0"),
        ("local", "3", "0", "0"),
        ("local", "3", "20", "0"),
        ("local", "3", "5", "0"),
    ]
    assert len(asked) == 12


def test_a_run_whose_stages_are_gone(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, out, "--seeds", "0", "--stale_it", "0")
    ((_, row),) = [(key, row) for key, row in sweep.read(out, AXES).items() if row["gradients"] == "cloud"]
    (Path(row["folder"]) / "summary.json").unlink()
    with pytest.raises(DataError, match="is gone, whose stages say the least K; name another table with --out"):
        run(monkeypatch, out, "--seeds", "0", "--stale_it", "0", "least")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot", "a.gif"], "must end in"),
        (["--compress", "int9"], "int9"),
        (["--stale_it", "x"], "it takes whole numbers and the word least"),
        (["--stale_it", "least", "0"], "let 0 be the first of them"),
        (["--link", "5h"], "5h"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_trained(
    out: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(monkeypatch, out, *flags)
    assert not FakeTestbed.trained


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_two_modes_over_a_real_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--link wired --seeds 0 --stale_it 0 --align_every 0 --epochs 1 --batch_size 256 --split_index 1"
    run(monkeypatch, tmp_path / "modes.csv", *words.split())
    done = sweep.read(tmp_path / "modes.csv", AXES)
    options = Options(
        link="wired", seeds=(0,), stale_it=("0",), align_every=(0,), epochs=1, batch_size=256, split_index=1
    )
    cloud, local = modes_of(options, done)
    assert local.bytes_down < 500 < cloud.bytes_down
    assert local.bytes_up > 500
    assert local.step_time_s > 0
    assert 0 <= local.accuracy <= 1
