"""Parties that change codecs and K while they train: alone, by a schedule, by hand, and not their cut."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import DIN.train
from common.errors import SessionGone, TandemError, UsageError
from common.training import moving
from common.training.control import Control, ask_run
from common.training.moving import Change
from common.training.part_state import State, to_pieces
from common.training.recorder import Recorder
from common.wire.messages import Move
from DIN.options import BaseOptions, JobOptions
from DIN.recipe import PartyPlan
from DIN.train import plan_all
from tests.serving import serving
from tests.test_vertical_refusals import error_of
from tests.test_vertical_resume import folder_of, killed_at, persistent
from tests.vertical import RECIPES, clicks, here, party, same, together, values

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

CHANGES: Mapping[int, Mapping[int, Change]] = {
    0: {
        2: Change(compress_up="int4/c+zstd"),
        5: Change(stale_it=3, compress_down="fp16"),
        9: Change(compress_up="none", compress_down="none", stale_it=0),
    },
    1: {3: Change(stale_it=1), 5: Change(compress_up="delta+int8", compress_down="ef+topk:0.1+int8")},
}
LOSSLESS: Mapping[int, Mapping[int, Change]] = {
    0: {2: Change(compress_up="none+lz4"), 7: Change(compress_down="none+zstd", compress_up="none")},
    1: {2: Change(compress_down="none+shuffle+zstd"), 5: Change(compress_up="none+lz4"), 7: Change(stale_it=0)},
}


def scheduled(patch: pytest.MonkeyPatch, changes: Mapping[int, Mapping[int, Change]]) -> None:
    """Let the parties of all runs change before these steps."""

    def of(plan: PartyPlan, options: JobOptions) -> dict[int, Change]:
        return dict(changes.get(plan.job.party, {}))

    patch.setattr(DIN.train, "_changes", of)


@pytest.mark.parametrize("owner", ["A", "server"])
def test_changes_that_lose_nothing_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    setting: dict[str, Any] = {"stale_it": 0, "compress": "none", "label_owner": owner}
    expected = here(tmp_path / "here", [clicks()] * 3, **setting)
    scheduled(monkeypatch, LOSSLESS)
    changed = here(tmp_path / "changed", [clicks()] * 3, **setting)
    assert [run.summary["moves"] for run in changed] == [2, 3]
    same(changed, expected)


@pytest.mark.parametrize("parties", [2, 3])
def test_over_a_network_parties_change_as_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parties: int
) -> None:
    """Also where one drains while another has steps under way, or changes nothing."""
    setting: dict[str, Any] = {"stale_it": 2, "compress": "int8", "parties": parties}
    scheduled(monkeypatch, CHANGES)
    expected = here(tmp_path / "here", **setting)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in "ABC"[:parties]))
    same(runs, expected)
    for run, its in zip(runs, [*CHANGES.values(), {}][:parties], strict=True):
        assert run.summary["moves"] == len(its)
    assert (runs[0].summary["stale_it"], runs[0].summary["compress_up"]) == (0, "none")
    assert (runs[1].summary["stale_it"], runs[1].summary["compress_down"]) == (1, "ef+topk:0.1+int8")


@pytest.mark.parametrize("dies", ["A", "B"])
@pytest.mark.parametrize("step", [5, 11])
def test_a_party_that_is_killed_behind_a_change_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str, step: int
) -> None:
    setting: dict[str, Any] = {"stale_it": 2, "compress": "int8"}
    scheduled(monkeypatch, CHANGES)
    expected = here(tmp_path / "here", **setting)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        killed_at(step, dies, monkeypatch)
        runs = together(*(partial(persistent, server, tmp_path, name, **setting) for name in "AB"))
    assert all(run.summary["resumes"] >= 1 for run in runs)
    same(runs, expected)
    for name in ("compress_up", "compress_down", "stale_it"):
        assert [run.summary[name] for run in runs] == [run.summary[name] for run in expected]


def test_k_grows_by_a_schedule(tmp_path: Path) -> None:
    setting: dict[str, Any] = {"compress": "int8", "epochs": 3}
    grows: dict[str, Any] = {"stale_it": 1, "K_schedule": (1, 2)}
    both = plan_all(BaseOptions(**values(tmp_path / "here", **setting, **grows)), [clicks()] * 2)
    expected = DIN.train.train_in_process(both, BaseOptions(**values(tmp_path / "here", **setting, **grows)))
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        killed_at(9, "A", patch)
        runs = together(*(partial(persistent, server, tmp_path, name, **setting, **grows) for name in "AB"))
    assert [run.summary["stale_it"] for run in runs] == [3, 3]
    same(runs, expected)


def test_a_schedule_and_auto_are_at_odds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--K_schedule lets a fixed K grow"):
        plan_all(BaseOptions(**values(tmp_path, stale_it="auto", K_schedule=(1,))), [clicks()] * 2)
    with pytest.raises(UsageError, match="the first that K can grow at is 1"):
        plan_all(BaseOptions(**values(tmp_path, K_schedule=(0,))), [clicks()] * 2)


def asking(patch: pytest.MonkeyPatch, run_dir: Path, ask: Callable[[Path], None]) -> threading.Thread:
    """Ask the run of a folder from its step 3 on, in a thread; nobody trains on until all is asked."""
    real_step, real_waiting = Recorder.step, Control.waiting
    begun, over = threading.Event(), threading.Event()

    def record(self: Recorder, done: Any) -> None:
        real_step(self, done)
        if self.folder.parent == run_dir and done.step == 3:
            begun.set()
            asker.start()

    def waiting(self: Control) -> bool:
        while begun.is_set() and not real_waiting(self) and not over.wait(0.01):
            continue
        return real_waiting(self)

    def run() -> None:
        try:
            ask(folder_of(run_dir))
        finally:
            over.set()

    patch.setattr(Recorder, "step", record)
    patch.setattr(Control, "waiting", waiting)
    asker = threading.Thread(target=run)
    return asker


def test_a_party_changes_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its codecs and K, by the program of all runs; but not its cut, nor to a K that its session is not for."""
    setting: dict[str, Any] = {"stale_it": 0, "compress": "none"}
    expected = here(tmp_path / "here", **setting)
    told: list[str] = []

    def ask(folder: Path) -> None:
        for change, words in (
            (Change(cut="cat_2"), "the cut stays behind .* is trained with the other parties"),
            (Change(stale_it=99), r"started for 16 at most \(--max_stale_it\)"),
            (Change(compress_up="int3"), "int3"),
        ):
            with pytest.raises(TandemError, match=words):
                ask_run(folder, change)
        told.append(ask_run(folder, Change(compress_up="none+lz4", compress_down="none+zstd")))

    asker = asking(monkeypatch, tmp_path / "A", ask)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in "AB"))
    asker.join()
    assert "none+lz4 up, none+zstd down, K = 0" in told[0]
    assert [run.summary["moves"] for run in runs] == [1, 0]
    same(runs, expected)
    assert not (runs[0].folder / "control.json").exists()


def test_who_asks_a_run_that_goes_back_is_told() -> None:
    """Another party was killed at that moment, say."""

    def gone(change: Change) -> str:
        raise SessionGone(f"K = {change.stale_it} came too late")

    control = Control()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.ask, Change(stale_it=1), 20.0)
        while not control.waiting():
            assert not asked.done()
        with pytest.raises(SessionGone):
            control.answer(gone)
        reply = asked.result(20)
    assert not reply.done
    assert reply.text == "it was not done: K = 1 came too late; ask again when the run goes on"


def test_what_a_party_was_told_outlives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting: dict[str, Any] = {"stale_it": 0, "compress": "none"}
    with pytest.MonkeyPatch.context() as patch:
        scheduled(patch, {0: {4: Change(compress_up="int8", compress_down="ef+int8")}})
        expected = here(tmp_path / "here", **setting)

    def ask(folder: Path) -> None:
        ask_run(folder, Change(compress_up="int8", compress_down="ef+int8"))

    killed_at(11, "A", monkeypatch)
    asker = asking(monkeypatch, tmp_path / "A", ask)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(persistent, server, tmp_path, name, **setting) for name in "AB"))
    asker.join()
    assert runs[0].summary["resumes"] == 1
    same(runs, expected)


def test_the_server_keeps_the_cut_of_a_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that knows no better: it is told why, and all train on."""
    setting: dict[str, Any] = {"stale_it": 0, "compress": "none"}
    expected = here(tmp_path / "here", **setting)
    told: list[str] = []

    def elsewhere(cut: int, *rest: Any) -> Move:
        return Move(cut - 1, *rest)

    def ask(folder: Path) -> None:
        with pytest.raises(TandemError) as refused:
            ask_run(folder, Change(compress_up="int8"))
        told.append(str(refused.value))

    monkeypatch.setattr(moving, "Move", elsewhere)
    asker = asking(monkeypatch, tmp_path / "B", ask)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(party, server, tmp_path, name, **setting) for name in "AB"))
    asker.join()
    assert told[0].startswith("the server goes on by the plan that it has: the cut stays behind")
    same(runs, expected)


def test_a_party_cannot_put_blocks_into_the_tail_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = to_pieces

    def forged(state: State) -> Any:
        return real({("rests.0.weight", "value"): torch.zeros(2), **state})

    monkeypatch.setattr(moving, "to_pieces", forged)
    scheduled(monkeypatch, {0: {3: Change(compress_up="int8")}})
    with serving(tmp_path / "server", recipes=RECIPES, away_s=5) as server:
        errors = together(*(partial(error_of, partial(party, server, tmp_path, name, stale_it=0)) for name in "AB"))
    assert "the cut of a party does not move" in errors[0]
    assert "party A" in errors[1]
