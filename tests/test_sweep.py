"""Grids of ablations: what is run, what is not run again, and what is wrong is told before anything is run."""

from pathlib import Path

import pytest

from baseline import sweep
from common.errors import UsageError

FLAGS = "--model resnet20 --split_index 3 --epochs 1 --batch_size 20 --threads 1 --checkpoint_every -1"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["sweep", *words])
    sweep.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_what_is_in_the_table_is_not_run_again(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[dict[str, str]] = []
    real = sweep.run

    def counted(common: list[str], values: dict[str, str]) -> dict[str, str]:
        ran.append(values)
        return real(common, values)

    monkeypatch.setattr(sweep, "run", counted)
    out = ["--out", str(tmp_path / "table.csv")]
    words = [*out, "--", *FLAGS.split(), "--dataset", images, "--run_dir", str(tmp_path)]
    grid = ["--grid", "stale_it=0,2", "compress=none,int8"]
    first = run(monkeypatch, capsys, *grid, *words)
    assert [each["stale_it"] for each in ran] == ["0", "0", "2", "2"]
    assert run(monkeypatch, capsys, *grid, *words) == first
    assert len(ran) == 4
    run(monkeypatch, capsys, *grid, "--seeds", "0", "1", *words)
    assert len(ran) == 8
    rows = sweep.read(tmp_path / "table.csv", ["stale_it", "compress", "seed", "flags"])
    assert len(rows) == 8
    assert {row["flags"] for row in rows.values()} == {
        f"--split_index 3 --epochs 1 --batch_size 20 --checkpoint_every -1 --dataset {images}"
    }
    assert all(Path(row["folder"]).is_dir() and float(row["accuracy"]) >= 0 for row in rows.values())
    with pytest.raises(UsageError, match="is a table of something else than stale_it, seed"):
        run(monkeypatch, capsys, "--grid", "stale_it=0", *words)


@pytest.mark.slow
def test_runs_with_other_flags_are_other_runs(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "table.csv")]
    words = [*out, "--", *FLAGS.split(), "--dataset", images, "--run_dir", str(tmp_path)]
    first = run(monkeypatch, capsys, "--grid", "lookahead=false,true", *words)
    assert "true" in first
    other = run(monkeypatch, capsys, "--grid", "lookahead=false,true", *words, "--lr", "0.001")
    assert other != first
    assert run(monkeypatch, capsys, "--grid", "lookahead=false,true", *words) == first
    rows = sweep.read(tmp_path / "table.csv", ["lookahead", "seed", "flags"])
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (["stale=0,1"], "there is no flag --stale to vary; .*stale_it"),
        (["stale_it"], "has no values"),
        (["seed=1,2"], "no flag --seed to vary"),
        (["compress=int9"], "int9"),
        (["stale_it=0,-1"], "--stale_it is -1"),
        (["lookahead=1"], "--lookahead is a switch, whose values are true and false"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_run(
    grid: list[str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["sweep", "--grid", *grid, "--out", str(tmp_path / "x.csv")])
    with pytest.raises(UsageError, match=words):
        sweep.main()
    assert not (tmp_path / "x.csv").exists()


def test_what_is_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["sweep", "--grid", "stale_it=0", "--out", str(tmp_path)])
    with pytest.raises(UsageError, match=r"cannot be read as a table .*; name another with --out"):
        sweep.main()
