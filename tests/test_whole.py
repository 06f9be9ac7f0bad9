"""All of the model on the edge: nothing is sent, a run goes on, and the cut moves there and back."""

from pathlib import Path
from typing import Any

import pytest

from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process, train_with_server
from tests.test_metered import rows_of
from tests.test_resume import Killed, folder_of, killed_at, losses, values

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WHOLE = {"split_index": None, "cut": "classifier", "stale_it": 0, "compress": "none", "meter": "none"}


def test_with_all_on_the_edge_nothing_counts_as_sent(images: str, tmp_path: Path) -> None:
    options = BaseOptions(**values(images, tmp_path, **WHOLE, move=("2:features.5",)))
    rows = rows_of(train_in_process(plan_job(options), options))

    assert [row["bytes_up"] for row in rows[:2]] == [row["bytes_down"] for row in rows[:2]] == [0, 0]
    assert all(row["bytes_up"] and row["bytes_down"] for row in rows[2:])


def test_a_run_with_all_on_the_edge_goes_on(images: str, tmp_path: Path) -> None:
    alone = BaseOptions(**values(images, tmp_path / "alone", **WHOLE))
    whole = train_in_process(plan_job(alone), alone)
    options = BaseOptions(**values(images, tmp_path / "killed", **WHOLE))
    with pytest.MonkeyPatch.context() as patch:
        killed_at(6, patch)
        with pytest.raises(Killed):
            train_in_process(plan_job(options), options)
    again = BaseOptions(**values(images, tmp_path, resume=folder_of(tmp_path / "killed"), **WHOLE))
    resumed = train_in_process(plan_job(again), again)

    assert resumed.summary["parameters_digest"] == whole.summary["parameters_digest"]
    assert resumed.summary["bytes_up_per_step"] == resumed.summary["bytes_down_per_step"] == 0
    assert resumed.summary["steps"] == whole.summary["steps"]


def test_the_cut_moves_to_the_end_and_back(server: Server, images: str, tmp_path: Path) -> None:
    setting: dict[str, Any] = {"stale_it": 0, "compress": "none", "meter": "none"}
    still = BaseOptions(**values(images, tmp_path / "still", **setting))
    expected = train_in_process(plan_job(still), still)
    ports = {"port": server.port, "hyperport": server.hyperport}
    moves = ("2:classifier", "6:features.5")
    options = ClientOptions(**values(images, tmp_path / "moved", **setting, **ports, move=moves))
    moved = train_with_server(plan_job(options), options)

    assert losses(moved) == losses(expected)
    assert moved.summary["parameters_digest"] == expected.summary["parameters_digest"]
    assert [bool(row["bytes_up"]) for row in rows_of(moved)] == [True] * 2 + [False] * 4 + [True] * 2
