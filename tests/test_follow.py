"""The fixed plans that an adaptive one is held against."""

from pathlib import Path

import pytest

from benchmarks.follow import Options, Row, deciles, fixed_plans, verdict
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
