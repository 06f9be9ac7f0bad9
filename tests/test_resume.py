"""Runs that are killed and go on: losses, weights and step counts are those of a run that was left alone."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from baseline import base
from common.training.recorder import Recorder
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


class Killed(Exception):
    """As if the process had ended here."""


def values(images: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": "resnet20",
        "dataset": images,
        "split_index": 3,
        "epochs": 2,
        "batch_size": 10,
        "lr": 0.05,
        "threads": 1,
        "run_dir": tmp_path,
        "checkpoint_every": 3,
        **more,
    }


def losses(run: Finished) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def killed_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """End the next run when a step is done."""
    real = Recorder.step

    def record(self: Recorder, done: Any) -> None:
        real(self, done)
        if done.step == step:
            raise Killed

    patch.setattr(Recorder, "step", record)


def folder_of(run_dir: Path) -> Path:
    (folder,) = [each.parent for each in run_dir.glob("*/config.json")]
    return folder


SETTINGS: list[dict[str, Any]] = [
    {"stale_it": 0, "compress": "none"},
    {"stale_it": 3, "compress": "none", "dropout": 0.2},
    {"stale_it": 3, "compress_up": "delta+int4/c+zstd", "compress_down": "ef+topk:0.1+int8", "optim": "tinyimagenet"},
    {"stale_it": 2, "compress_up": "taylor+int8/s", "compress_down": "int8/s", "checkpoint_every": 1},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: f"K{each['stale_it']}-{len(each)}")
@pytest.mark.parametrize("step", [3, 6])
def test_a_run_in_one_process_goes_on(images: str, tmp_path: Path, setting: dict[str, Any], step: int) -> None:
    alone = BaseOptions(**values(images, tmp_path / "alone", **setting))
    whole = train_in_process(plan_job(alone), alone)
    options = BaseOptions(**values(images, tmp_path / "killed", **setting))
    with pytest.MonkeyPatch.context() as patch:
        killed_at(step, patch)
        with pytest.raises(Killed):
            train_in_process(plan_job(options), options)
    again = BaseOptions(**values(images, tmp_path, resume=folder_of(tmp_path / "killed"), **setting))
    resumed = train_in_process(plan_job(again), again)
    assert losses(resumed) == losses(whole)
    for key in ("parameters_digest", "steps", "samples", "epochs", "accuracy", "bytes_up_per_step"):
        assert resumed.summary[key] == whole.summary[key], key
    assert resumed.summary["resumes"] == 1


def test_one_process_goes_on_by_the_folder_alone(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BaseOptions(**values(images, tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        killed_at(5, patch)
        with pytest.raises(Killed):
            train_in_process(plan_job(options), options)
    folder = folder_of(tmp_path)
    monkeypatch.setattr(sys, "argv", ["base", "--resume", str(folder), "--threads", "1"])
    base.main()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["epochs"], summary["steps"], summary["resumes"]) == (options.epochs, 8, 1)
    assert str(folder) in capsys.readouterr().out


@pytest.mark.parametrize("setting", SETTINGS[1:3], ids=lambda each: f"K{each['stale_it']}-{len(each)}")
@pytest.mark.parametrize("dies", ["client", "server", "both"])
def test_a_run_over_a_network_goes_on(images: str, tmp_path: Path, setting: dict[str, Any], dies: str) -> None:
    alone = BaseOptions(**values(images, tmp_path / "alone", **setting))
    whole = train_in_process(plan_job(alone), alone)

    def options(server: Any, **more: Any) -> ClientOptions:
        ports = {"port": server.port, "hyperport": server.hyperport}
        return ClientOptions(**values(images, tmp_path / "killed", **setting, **ports, reconnect_s=20.0, **more))

    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server") as server:
        if dies == "server":
            chosen = options(server)
            with server_dies_at(4, server, tmp_path, patch) as revived:
                resumed = train_with_server(plan_job(chosen), chosen)
            assert revived
        else:
            killed_at(4, patch)
            chosen = options(server)
            with pytest.raises(Killed):
                train_with_server(plan_job(chosen), chosen)
            patch.undo()
    if dies != "server":
        with serving(tmp_path / "server") as server:
            again = options(server, resume=folder_of(tmp_path / "killed"))
            resumed = train_with_server(plan_job(again), again)
    assert losses(resumed) == losses(whole)
    for key in ("parameters_digest", "steps", "samples", "epochs", "accuracy"):
        assert resumed.summary[key] == whole.summary[key], key
    assert resumed.summary["resumes"] >= 1


@contextmanager
def server_dies_at(
    step: int, server: Server, tmp_path: Path, patch: pytest.MonkeyPatch, **more: Any
) -> Iterator[list[Server]]:
    """When a step is done, the server ends, and another one begins on its ports."""
    real, revived, stack = Recorder.step, list[Server](), ExitStack()

    def record(self: Recorder, done: Any) -> None:
        real(self, done)
        if done.step == step and not revived:
            server.close()
            ports: dict[str, Any] = {"port": server.port, "hyperport": server.hyperport}
            revived.append(stack.enter_context(serving(tmp_path / "server", **ports, **more)))

    patch.setattr(Recorder, "step", record)
    with stack:
        yield revived
