"""Parties that are killed and go on: the result of all is that of a run that was left alone."""

import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.errors import TandemError
from common.training import duplex
from common.training.recorder import Recorder
from common.training.serve import Server
from DIN.train import Finished
from tests.serving import serving
from tests.test_resume import Killed
from tests.vertical import RECIPES, here, party, same, together

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

SETTINGS: list[dict[str, Any]] = [
    {"stale_it": 0, "compress": "none", "checkpoint_every": 2},
    {"stale_it": 3, "compress_up": "delta+int4/c+zstd", "compress_down": "ef+topk:0.1+int8"},
    {"stale_it": 2, "parties": 3, "label_owner": "C", "checkpoint_every": 1},
]


def folder_of(run_dir: Path) -> Path:
    (folder,) = [each.parent for each in run_dir.glob("**/config.json")]
    return folder


def killed_at(step: int, party: str, patch: pytest.MonkeyPatch) -> None:
    """End a party's next run when a step is done."""
    real, killed = Recorder.step, list[int]()

    def record(self: Recorder, done: Any) -> None:
        real(self, done)
        if done.step == step and not killed and self.folder.parent.name == party:
            killed.append(step)
            raise Killed

    patch.setattr(Recorder, "step", record)


def persistent(server: Server, run_dir: Path, name: str, **more: Any) -> Finished:
    """A party whose user starts it again when it was killed."""
    try:
        return party(server, run_dir, name, **more)
    except Killed:
        return party(server, run_dir, name, resume=folder_of(run_dir / name), **more)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: f"K{each['stale_it']}-{len(each)}")
@pytest.mark.parametrize("dies", ["A", "B"])
@pytest.mark.parametrize("step", [1, 10])
def test_a_party_is_killed(tmp_path: Path, setting: dict[str, Any], dies: str, step: int) -> None:
    expected = here(tmp_path / "here", **setting)
    names = "ABC"[: setting.get("parties", 2)]
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        killed_at(step, dies, patch)
        runs = together(*(partial(persistent, server, tmp_path, name, **setting) for name in names))
    same(runs, expected)
    assert all(run.summary["resumes"] >= 1 for run in runs)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: f"K{each['stale_it']}-{len(each)}")
def test_the_server_is_killed(tmp_path: Path, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = here(tmp_path / "here", **setting)
    names = "ABC"[: setting.get("parties", 2)]
    real, dying, lock = Recorder.step, [7], threading.Lock()
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "server", recipes=RECIPES, away_s=20))

        def record(self: Recorder, done: Any) -> None:
            real(self, done)
            with lock:
                if done.step in dying and self.folder.parent.name == "A":
                    dying.remove(done.step)
                    server.close()
                    ports = {"port": server.port, "hyperport": server.hyperport}
                    stack.enter_context(serving(tmp_path / "server", recipes=RECIPES, away_s=20, **ports))

        monkeypatch.setattr(Recorder, "step", record)
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in names))
    assert not dying
    same(runs, expected)


@pytest.mark.parametrize("dies", ["A", "B"])
def test_all_are_killed_in_one_process(tmp_path: Path, dies: str) -> None:
    setting = SETTINGS[1]
    expected = here(tmp_path / "here", **setting)
    real = Recorder.step

    def record(self: Recorder, done: Any) -> None:
        real(self, done)
        if done.step == 8 and self.folder.name == dies:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "step", record)
        with pytest.raises(Killed):
            here(tmp_path / "killed", **setting)
    (folder,) = (tmp_path / "killed").iterdir()
    same(here(tmp_path / "killed", resume=folder, **setting), expected)


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (True, "party A of the run did not come within 6 s"),
        (False, r"the run has lost party A: .*did not come back within 6 s"),
    ],
)
def test_a_party_that_stays_away_ends_the_run(tmp_path: Path, heard: bool, words: str) -> None:
    """Whether it could say that it fell, or was gone without a word."""
    real = duplex._last_words

    def leaves() -> Finished | None:
        try:
            return party(server, tmp_path, "A", stale_it=0)
        except Killed:
            return None

    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server", recipes=RECIPES, away_s=6) as server:
        killed_at(4, "A", patch)
        if not heard:
            patch.setattr(duplex, "_last_words", lambda error: None if isinstance(error, Killed) else real(error))
        with pytest.raises(TandemError, match=words):
            together(partial(party, server, tmp_path, "B", stale_it=0), leaves)
