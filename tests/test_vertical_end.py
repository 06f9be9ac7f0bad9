"""Parties that are killed at the end of a run: they can go on, whether the others wait or have ended."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.errors import SessionGone, TandemError
from common.training import duplex
from common.training.ended import EndedRuns, Latecomer
from common.training.joint import Joint
from common.training.recorder import Recorder
from common.training.score import Score
from common.training.trainer import Trainer
from DIN.train import Finished
from tests.serving import serving
from tests.test_resume import Killed
from tests.test_vertical_refusals import error_of
from tests.test_vertical_resume import folder_of, persistent
from tests.vertical import RECIPES, here, party, same, together

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

SETTINGS: list[dict[str, Any]] = [
    {"stale_it": 0, "compress": "none", "checkpoint_every": 2},
    {"stale_it": 3, "compress_up": "delta+int4/c+zstd", "compress_down": "ef+topk:0.1+int8", "checkpoint_every": 0},
    {"stale_it": 2, "parties": 3, "label_owner": "C", "checkpoint_every": 1},
]
LAST_EPOCH = 1
_PATIENCE_S = 30.0


class Waiting:
    """Tells when so many parties wait at a run's end."""

    def __init__(self, patch: pytest.MonkeyPatch, parties: int) -> None:
        self._missing, self._all = parties, threading.Event()
        real = Joint.finish

        def finish(joint: Joint, party: int) -> dict[str, str]:
            self._missing -= 1
            if self._missing <= 0:
                self._all.set()
            return real(joint, party)

        patch.setattr(Joint, "finish", finish)

    def wait(self) -> None:
        assert self._all.wait(_PATIENCE_S), "the others did not come to their end"


def killed_behind_evaluation(patch: pytest.MonkeyPatch, name: str, then: Callable[[], None]) -> None:
    """End a party's next run behind its last answer, before it has said that it has all."""
    real, killed = Recorder.epoch, list[int]()

    def epoch(self: Recorder, number: int, score: Score) -> None:
        real(self, number, score)
        if number == LAST_EPOCH and not killed and self.folder.parent.name == name:
            killed.append(number)
            then()
            raise Killed

    patch.setattr(Recorder, "epoch", epoch)


def killed_before_it_writes(patch: pytest.MonkeyPatch, name: str, then: Callable[[], None]) -> None:
    """End a party's next run when it has heard that all have ended, before anything of that is on its disk."""
    real, killed = Trainer.finish, list[int]()

    def finish(self: Trainer, *rest: Any) -> dict[str, Any]:
        if not killed and self.recorder.folder.parent.name == name:
            killed.append(1)
            then()
            raise Killed
        return real(self, *rest)

    patch.setattr(Trainer, "finish", finish)


def names_of(setting: dict[str, Any]) -> str:
    return "ABC"[: setting.get("parties", 2)]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: f"K{each['stale_it']}-{len(each)}")
@pytest.mark.parametrize("dies", ["A", "B"])
def test_the_others_wait_for_a_party_that_is_killed_behind_its_last_answer(
    tmp_path: Path, setting: dict[str, Any], dies: str
) -> None:
    expected, names = here(tmp_path / "here", **setting), names_of(setting)
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        killed_behind_evaluation(patch, dies, Waiting(patch, len(names) - 1).wait)
        runs = together(*(partial(persistent, server, tmp_path, name, **setting) for name in names))
    same(runs, expected)
    assert all(run.summary["resumes"] >= 1 for run in runs)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda each: f"K{each['stale_it']}-{len(each)}")
@pytest.mark.parametrize("server_too", [False, True])
def test_a_party_is_killed_when_the_others_have_ended(
    tmp_path: Path, setting: dict[str, Any], server_too: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It needs the server only, which may be another one by then."""
    expected, names = here(tmp_path / "here", **setting), names_of(setting)
    others = threading.Semaphore(0)

    def all_others() -> None:
        for _ in names[1:]:
            assert others.acquire(timeout=_PATIENCE_S)

    def run(name: str) -> Finished:
        finished = party(server, tmp_path, name, **setting)
        others.release()
        return finished

    def is_killed() -> None:
        with pytest.raises(Killed):
            party(server, tmp_path, "A", **setting)

    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "server", recipes=RECIPES, away_s=20))
        with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
            killed_before_it_writes(patch, "A", all_others)
            _, *runs = together(is_killed, *(partial(run, name) for name in names[1:]))
        if server_too:
            server.close()
            server = stack.enter_context(serving(tmp_path / "server", recipes=RECIPES, away_s=20))
        folder = folder_of(tmp_path / "A")
        late = party(server, tmp_path, "A", resume=folder, **setting)
    assert late.summary["resumes"] == 1
    same([late, *(each for each in runs if each is not None)], expected)
    assert caplog.text.count("all parties have had their answers") == 1
    assert not (folder / "checkpoints").exists()


def test_the_server_is_killed_while_a_party_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = SETTINGS[1]
    expected = here(tmp_path / "here", **setting)
    waiting, real, killed = Waiting(monkeypatch, 1), Recorder.epoch, list[int]()
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "server", recipes=RECIPES, away_s=20))

        def epoch(self: Recorder, number: int, score: Score) -> None:
            real(self, number, score)
            if number == LAST_EPOCH and not killed and self.folder.parent.name == "B":
                killed.append(number)
                waiting.wait()
                server.close()
                ports = {"port": server.port, "hyperport": server.hyperport}
                stack.enter_context(serving(tmp_path / "server", recipes=RECIPES, away_s=20, **ports))

        monkeypatch.setattr(Recorder, "epoch", epoch)
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in "AB"))
    assert killed
    same(runs, expected)


def test_a_party_does_not_hear_that_all_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session ends in that moment; it asks again by itself, and the others are not needed."""
    setting = SETTINGS[1]
    expected = here(tmp_path / "here", **setting)
    real, lost = Joint.finish, list[int]()

    def finish(joint: Joint, party: int) -> dict[str, str]:
        digests = real(joint, party)
        if party == 1 and not lost:
            lost.append(party)
            raise SessionGone("the server has ended at once")
        return digests

    monkeypatch.setattr(Joint, "finish", finish)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in "AB"))
    same(runs, expected)
    assert [run.summary["resumes"] for run in runs] == [0, 1]


def test_who_has_ended_alone_cannot_be_trained_further(tmp_path: Path) -> None:
    setting: dict[str, Any] = {"stale_it": 1}
    ended = threading.Event()

    def is_killed() -> None:
        with pytest.raises(Killed):
            party(server, tmp_path, "A", **setting)

    def run() -> None:
        party(server, tmp_path, "B", **setting)
        ended.set()

    def wait() -> None:
        assert ended.wait(_PATIENCE_S)

    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        with pytest.MonkeyPatch.context() as patch:
            killed_before_it_writes(patch, "A", wait)
            together(is_killed, run)
        with pytest.raises(TandemError, match="this run has ended, and the other parties with it; to train more"):
            party(server, tmp_path, "A", resume=folder_of(tmp_path / "A"), epochs=3, **setting)


@pytest.mark.parametrize("heard", [True, False])
def test_who_waits_at_the_end_for_nobody_can_go_on_later(tmp_path: Path, heard: bool) -> None:
    """It ends in words after the time that a party may be away; nothing is lost until both are resumed."""
    setting: dict[str, Any] = {"stale_it": 2}
    expected, real = here(tmp_path / "here", **setting), duplex._last_words

    def is_killed() -> str:
        with pytest.raises(Killed):
            party(server, tmp_path, "B", **setting)
        return ""

    with serving(tmp_path / "server", recipes=RECIPES, away_s=8) as server:
        with pytest.MonkeyPatch.context() as patch:
            killed_behind_evaluation(patch, "B", Waiting(patch, 1).wait)
            if not heard:
                patch.setattr(duplex, "_last_words", lambda error: None if isinstance(error, Killed) else real(error))
            words, _ = together(partial(error_of, partial(party, server, tmp_path, "A", **setting)), is_killed)
        assert ("party B of the run did not come within 8 s" if heard else "the run has lost party B") in words
        folders = {name: folder_of(tmp_path / name) for name in "AB"}
        runs = together(*(partial(party, server, tmp_path, name, resume=folders[name], **setting) for name in "AB"))
    same(runs, expected)


@pytest.mark.parametrize("dies", ["A", "B"])
def test_all_are_killed_at_the_end_in_one_process(tmp_path: Path, dies: str) -> None:
    setting = SETTINGS[1]
    expected = here(tmp_path / "here", **setting)
    real = Recorder.epoch

    def epoch(self: Recorder, number: int, score: Score) -> None:
        real(self, number, score)
        if number == LAST_EPOCH and self.folder.name == dies:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "epoch", epoch)
        with pytest.raises(Killed):
            here(tmp_path / "killed", **setting)
    (folder,) = (tmp_path / "killed").iterdir()
    same(here(tmp_path / "killed", resume=folder, **setting), expected)


def test_what_a_server_knows_of_runs_that_have_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs, group = EndedRuns(tmp_path / "server"), "0123456789abcdef"
    assert runs.digests(group) is None
    runs.add(group, {"top.weight": "d"})
    assert runs.digests(group) == {"top.weight": "d"}
    (file,) = (tmp_path / "server").iterdir()
    file.write_text("{")
    assert runs.digests(group) is None
    assert runs.digests("../" + group) is None
    (tmp_path / "full").write_text("")
    EndedRuns(tmp_path / "full").add(group, {})
    assert "a party that is killed now cannot go on" in caplog.text
    late = Latecomer({"top.weight": "d"})
    assert late.finish() == {"top.weight": "d"}
