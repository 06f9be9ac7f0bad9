"""The benchmark of two parties, each on a link of its own."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import parties

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def test_what_parties_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    words = ["--plan", "--links", "2/8/20 16/16/60", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["parties", *words])
    parties.main()
    one, other = json.loads(out.read_text())["rows"]
    assert one["predicted_ms"] == pytest.approx(other["predicted_ms"])
    assert one["predicted_ms"] > 8 * 256 * 48 / 2e3  # int8, the smallest of the codecs
    assert (one["codecs"].split(" / ")[0], other["codecs"].split(" / ")[0]) == ("int8", "none")


def test_a_row_for_each_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.json"
    words = ["--links", "wired 20/20/10", "--stale_it", "3", "--epochs", "1", "--compress", "int8"]
    monkeypatch.setattr(sys, "argv", ["parties", *words, "--json", str(out)])
    parties.main()
    rows = json.loads(out.read_text())["rows"]
    assert [(row["link"], row["party"], row["K"]) for row in rows] == [("wired", "A", 3), ("20/20/10", "B", 3)]
    slowest = max(row[f"{stage}_ms"] for row in rows for stage in ("edge", "uplink", "cloud", "downlink"))
    assert all(row["limit_ms"] == pytest.approx(slowest) for row in rows)
    assert all(row["of_limit"] > 0.5 for row in rows)
