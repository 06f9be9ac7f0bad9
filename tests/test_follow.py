"""The fixed plans that an adaptive one is held against."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import follow
from benchmarks.follow import Options, Row, deciles, fixed_plans, verdict
from common.errors import TandemError
from tests.test_adapt import PROBLEM


def trace(path: Path, rates: list[float], seconds: float = 10.0) -> Path:
    rows = [f"{number * seconds},{rate}" for number, rate in enumerate([*rates, rates[-1]])]
    path.write_text("\n".join(["time_s,up_mbps", *rows]) + "\n")
    return path


def test_rates_of_a_trace(tmp_path: Path) -> None:
    assert deciles(trace(tmp_path / "even.csv", [8.0, 8.0]), "up", 5.0, 1.0) == pytest.approx([8.0] * 5)
    low, *_, high = deciles(trace(tmp_path / "two.csv", [2.0, 30.0]), "up", 5.0, 1.0)
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(30.0)
    assert deciles(None, "up", 5.0, 7.0) == [7.0] * 5


def test_a_plan_that_is_best_at_several_rates_is_run_once(tmp_path: Path) -> None:
    even = Options(trace_up=trace(tmp_path / "even.csv", [8.0, 8.0]), link="8/8/40")
    assert len(fixed_plans(even, PROBLEM)) == 1
    wide = Options(trace_up=trace(tmp_path / "wide.csv", [0.2, 1.0, 5.0, 25.0, 125.0, 600.0]), link="8/8/40")
    plans = fixed_plans(wide, PROBLEM)
    assert len({str(plan) for plan in plans.values()}) == len(plans) > 1


def test_the_best_fixed_plan_is_that_of_all_phases() -> None:
    adaptive, good = Row("adaptive", (10.0, 30.0), 1, 0.5), Row("good", (25.0, 25.0), 0, 0.5)
    lucky = Row("lucky", (8.0, 60.0), 0, 0.5)
    assert verdict([adaptive, lucky, good]).endswith("the best fixed one (good) takes 1.25 x its time")
    assert "beats every fixed plan" in verdict([adaptive, lucky, good])
    assert "is beaten" in verdict([good, lucky, adaptive])


def test_all_plans_are_run_from_all_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, float, bool]] = []

    def train(options: Options, phase_s: float, flags: list[str]) -> dict[str, Any]:
        asked.append((options.epochs, phase_s, "ours" in flags))
        return {"training_s": 10.0 + phase_s + ("ours" not in flags), "moves": 1, "accuracy": 0.5}

    monkeypatch.setattr(follow, "_train", train)
    monkeypatch.setattr(follow, "measured_profile", lambda *_: PROBLEM.edge)
    up = trace(tmp_path / "wide.csv", [0.2, 1.0, 5.0, 25.0, 125.0, 600.0])
    flags = ["--trace_up", str(up), "--codecs", "none", "--phases", "0", "30", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["follow", *flags, "--out", str(tmp_path / "out"), "--json", str(tmp_path / "j")])
    follow.main()
    assert asked[0] == (1, 0.0, True)  # profiles are made before anything counts
    assert asked[1:3] == [(2, 0.0, True), (2, 30.0, True)]
    assert all(epochs == 2 and not ours for epochs, _, ours in asked[3:])
    assert {phase_s for _, phase_s, _ in asked} == {0.0, 30.0}
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert rows[0]["phases_s"] == [10.0, 40.0]
    assert rows[-1]["plan"] == "all on the edge"
    out = capsys.readouterr().out
    assert "from_30_s" in out
    assert "takes 1.04 x its time" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "there is nothing to follow"),
        ("--trace_up none.csv --phases -3", "seconds into the trace, 0 or more"),
        ("--trace_up none.csv", "none.csv"),
    ],
)
def test_wrong_usage_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch, flags: str, message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["follow", *flags.split()])
    with pytest.raises(TandemError, match=message):
        follow.main()
