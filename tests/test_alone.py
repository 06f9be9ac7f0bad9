"""An edge whose cloud is away trains on alone, and hands the tail back."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConnectionLost
from common.training.recorder import Recorder
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_resume import Killed, folder_of, losses, values

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

# Serial and uncompressed, it makes no difference who computes the tail.
EXACT = {"stale_it": 0, "compress": "none", "epochs": 4, "checkpoint_every": 2}
PIPELINED = {"stale_it": 3, "compress_up": "delta+int8", "compress_down": "ef+int8", "epochs": 4, "checkpoint_every": 3}


def whole(images: str, tmp_path: Path, **setting: Any) -> Finished:
    options = BaseOptions(**values(images, tmp_path / "whole", **setting))
    return train_in_process(plan_job(options), options)


def options_for(server: Server, images: str, tmp_path: Path, **setting: Any) -> ClientOptions:
    flags = {"reconnect_s": 0.2, "on_disconnect": "edge", "port": server.port, "hyperport": server.hyperport}
    return ClientOptions(**values(images, tmp_path / "edge", **{**flags, **setting}))


class Cloud:
    """A server that goes away and comes back at steps of the run."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch, *, away: int, back: int = -1, dies: int = -1) -> None:
        patch.setattr("common.training.alone.PROBE_S", 0.05)
        self._folder, self._steps = tmp_path / "server", {"away": away, "back": back, "dies": dies}
        self._stack = ExitStack()
        self.server = self._stack.enter_context(serving(self._folder))
        real, cloud = Recorder.step, self

        def record(recorder: Recorder, done: Any) -> None:
            real(recorder, done)
            cloud.at(done.step, alone=bool(recorder.setting.get("alone")))

        patch.setattr(Recorder, "step", record)

    def at(self, step: int, *, alone: bool) -> None:
        steps = self._steps
        if step == steps["away"]:
            steps["away"] = -1
            self.server.close()
        elif step == steps["back"] and alone:
            steps["back"] = -1
            self._stack.enter_context(serving(self._folder, port=self.server.port, hyperport=self.server.hyperport))
            threading.Event().wait(0.3)  # for the probe to find it
        elif step == steps["dies"]:
            steps["dies"] = -1
            raise Killed

    def __enter__(self) -> "Cloud":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def test_to_the_end(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(images, tmp_path, **EXACT)
    with Cloud(tmp_path, monkeypatch, away=5) as cloud:
        options = options_for(cloud.server, images, tmp_path, **EXACT)
        run = train_with_server(plan_job(options), options)
    assert losses(run) == losses(expected)
    assert run.summary["parameters_digest"] == expected.summary["parameters_digest"]
    assert run.summary["session"] is None
    assert run.summary["alone_steps"] >= 10
    assert (run.folder / "tail.safetensors").exists()
    assert not (run.folder / "checkpoints" / "cloud").exists()


@pytest.mark.parametrize("setting", [EXACT, PIPELINED], ids=["exact", "pipelined"])
def test_until_the_cloud_is_back(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    expected = whole(images, tmp_path, **setting)
    with Cloud(tmp_path, monkeypatch, away=5, back=7) as cloud:
        options = options_for(cloud.server, images, tmp_path, **setting)
        run = train_with_server(plan_job(options), options)
    assert [step for step, _ in losses(run)] == [step for step, _ in losses(expected)]
    if setting is EXACT:
        assert losses(run) == losses(expected)
        assert run.summary["parameters_digest"] == expected.summary["parameters_digest"]
    assert run.summary["session"] is not None
    assert 1 <= run.summary["alone_steps"] <= 10


def test_killed_while_it_was_alone(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(images, tmp_path, **EXACT)
    with Cloud(tmp_path, monkeypatch, away=3, dies=9) as cloud:
        options = options_for(cloud.server, images, tmp_path, **EXACT)
        with pytest.raises(Killed):
            train_with_server(plan_job(options), options)
        again = options_for(cloud.server, images, tmp_path, **EXACT, resume=folder_of(tmp_path / "edge"))
        run = train_with_server(plan_job(again), again)
    assert losses(run) == losses(expected)
    assert run.summary["parameters_digest"] == expected.summary["parameters_digest"]


def test_without_it_the_run_stops(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cloud(tmp_path, monkeypatch, away=3) as cloud:
        options = options_for(cloud.server, images, tmp_path, **{**EXACT, "on_disconnect": "stop"})
        with pytest.raises(ConnectionLost, match="go on with --resume"):
            train_with_server(plan_job(options), options)
