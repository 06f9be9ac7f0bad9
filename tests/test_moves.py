"""The cut moves while a run trains: with its blocks go weights, buffers and the optimizer's state."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.moves import MOVED
from common.errors import TandemError, UsageError
from common.training.control import ask_run
from common.training.moving import Change
from common.training.recorder import Recorder
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_resume import Killed, folder_of, killed_at, losses, values

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

MOVES = ("1:9", "2:features.5", "4:features.1", "5:4", "7:features.7")


def in_process(images: str, tmp_path: Path, **more: Any) -> Finished:
    options = BaseOptions(**values(images, tmp_path, **more))
    return train_in_process(plan_job(options), options)


def same(one: Finished, other: Finished) -> bool:
    keys = ("parameters_digest", "accuracy", "steps")
    return losses(one) == losses(other) and all(one.summary[key] == other.summary[key] for key in keys)


@pytest.mark.parametrize("optim", ["resnet", "tinyimagenet", "resnetpre"])
def test_without_staleness_a_run_that_moves_is_one_that_never_did(images: str, tmp_path: Path, optim: str) -> None:
    setting = {"stale_it": 0, "compress": "none", "optim": optim, "dropout": 0.2}
    moved = in_process(images, tmp_path / "moved", move=MOVES, **setting)
    assert moved.summary["moves"] == 5
    assert moved.summary["cut_name"].startswith("features.7")
    assert same(moved, in_process(images, tmp_path / "still", **setting))


def test_what_a_move_costs_is_told(images: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        in_process(images, tmp_path, stale_it=1, move=MOVES[:2])
    (first, second) = MOVED.findall(caplog.text)
    assert (first[0], second[0]) == ("1", "2")
    assert second[1].startswith("features.5")
    assert float(second[2]) > 0  # MB of blocks


def test_a_cut_may_move_to_both_ends(images: str, tmp_path: Path) -> None:
    setting = {"stale_it": 0, "compress": "none"}
    moved = in_process(images, tmp_path / "moved", move=("2:0", "4:classifier", "6:features.5"), **setting)
    assert same(moved, in_process(images, tmp_path / "still", **setting))


@pytest.mark.parametrize(
    "codecs",
    [{"compress": "none"}, {"compress_up": "delta+int4/c+zstd", "compress_down": "ef+topk:0.1+int8"}],
    ids=["exact", "with-memory"],
)
def test_over_a_network_it_moves_as_in_one_process(images: str, tmp_path: Path, codecs: dict[str, str]) -> None:
    setting = {"stale_it": 3, "move": MOVES, **codecs}
    expected = in_process(images, tmp_path / "base", **setting)
    with serving(tmp_path / "server") as server:
        ports = {"port": server.port, "hyperport": server.hyperport}
        options = ClientOptions(**values(images, tmp_path / "client", **setting, **ports))
        moved = train_with_server(plan_job(options), options)
    assert moved.summary["moves"] == 5
    assert moved.summary["moving_s"] > 0
    assert same(moved, expected)
    cuts = [json.loads(line)["cut"] for line in (moved.folder / "metrics.jsonl").read_text().splitlines()]
    assert cuts[1] == cuts[1] == 9
    assert len(set(cuts)) == 6


@pytest.mark.parametrize("step", [4, 5])
def test_a_run_that_moved_goes_on_where_it_was_cut_last(images: str, tmp_path: Path, step: int) -> None:
    setting = {"stale_it": 2, "compress": "none", "move": MOVES, "checkpoint_every": 2}
    expected = in_process(images, tmp_path / "base", **setting)
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server") as server:
        ports = {"port": server.port, "hyperport": server.hyperport}
        killed_at(step, patch)
        options = ClientOptions(**values(images, tmp_path / "killed", **setting, **ports))
        with pytest.raises(Killed):
            train_with_server(plan_job(options), options)
        patch.undo()
        again = ClientOptions(**values(images, tmp_path, resume=folder_of(tmp_path / "killed"), **setting, **ports))
        resumed = train_with_server(plan_job(again), again)
    assert same(resumed, expected)
    assert resumed.summary["cut_name"] == expected.summary["cut_name"]


def test_a_run_moves_when_it_is_told_to(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    asked = threading.Event()
    real = Recorder.step

    def record(self: Recorder, done: Any) -> None:
        real(self, done)
        if done.step == 2:
            asker.start()
            assert asked.wait(20)  # the run is in the midst of a step

    def ask() -> None:
        folder = folder_of(tmp_path / "run")
        threading.Timer(0.2, asked.set).start()
        with pytest.raises(TandemError, match=r"the cut stays behind .*: the model has no cut 'layer9'"):
            ask_run(folder, Change(cut="layer9"))
        told.append(ask_run(folder, Change(cut="features.5")))

    monkeypatch.setattr(Recorder, "step", record)
    asker = threading.Thread(target=ask)
    run = in_process(images, tmp_path / "run", stale_it=0, compress="none", epochs=40)
    asker.join()
    assert "cut behind features.5" in told[0]
    assert run.summary["moves"] == 1
    with pytest.raises(UsageError, match="is no run that trains"):
        ask_run(run.folder, Change(cut="features.1"))


def test_a_move_that_cannot_be_is_refused_before_training(images: str, tmp_path: Path) -> None:
    for move, words in (("x:layer1", "is no STEP:CUT"), ("3:layer9", "--move 3:layer9: the model has no cut 'layer9'")):
        with pytest.raises(UsageError, match=words):
            in_process(images, tmp_path, move=(move,))
