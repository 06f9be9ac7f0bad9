"""The benchmark of what runs that plan predict."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import planned

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def test_a_row_for_each_way_to_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    words = ["--links", "8/8/20", "--image_size", "32", "--epochs", "1", "--out", str(tmp_path), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["planned", *words])
    planned.main()
    ours, auto = json.loads(out.read_text())["rows"]
    assert (ours["asked"], auto["asked"]) == ("ours", "auto")
    assert auto["codecs"] == "int8+zstd / int4+zstd"
    for row in (ours, auto):
        assert row["of_predicted"] == pytest.approx(row["step_ms"] / row["predicted_ms"])
        assert row["predicted_ms"] > 0
