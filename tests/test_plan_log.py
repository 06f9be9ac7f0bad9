"""The log of decisions: what is written is read back, and what is no decision is told by its line."""

import json
from pathlib import Path

import pytest

from common.errors import UsageError
from common.planning.log import FILE, read_plans
from tests.made_runs import make_decisions

LINE = (
    '{"step": 0, "wall_s": 0.5, "context": {"up_bps": 2e7, "down_bps": null, "rtt_s": 0.02}, '
    '"plan": {"cut": 3, "compress_up": "int8", "compress_down": "fp16", "stale_it": 2}, '
    '"predicted_step_s": 0.1, "measured_step_s": null, "reason": "first"}\n'
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    decisions = make_decisions(tmp_path)

    assert read_plans(tmp_path / FILE) == decisions


def test_a_line_is_an_object_with_the_documented_keys(tmp_path: Path) -> None:
    make_decisions(tmp_path)
    row = json.loads((tmp_path / FILE).read_text().splitlines()[0])

    assert row == {
        "step": 0,
        "wall_s": 0.0,
        "context": {"up_bps": None, "down_bps": 40e6, "rtt_s": 0.02},
        "plan": {"cut": 10, "compress_up": "int8", "compress_down": "fp16", "stale_it": 3},
        "predicted_step_s": 0.1,
        "measured_step_s": None,
        "reason": "the uplink is slower",
    }


def test_a_line_that_is_not_finished_is_left_out(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(LINE + LINE[:50])

    assert len(read_plans(tmp_path / FILE)) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LINE[:50] + "\n" + LINE, "line 1, is no decision"),
        (LINE + LINE.replace('"cut": 3', '"cut": "x"'), r"line 2, is no decision: .*\$.plan.cut"),
        (LINE.replace('"step": 0, ', ""), "line 1, is no decision: .*step"),
        ("[]\n", "line 1, is no decision"),
        ("", "has no decisions; the run has not planned yet"),
    ],
)
def test_what_is_no_decision_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UsageError, match=told):
        read_plans(tmp_path / FILE)


def test_a_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"plans\.jsonl cannot be read: No such file .*; only runs that plan"):
        read_plans(tmp_path / FILE)
