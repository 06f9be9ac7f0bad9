"""Parties that look at their plans again while they train, each for its own link and by what the others tell."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

import DIN.planning
import DIN.train
from common.planning.context import Spread
from common.planning.log import Choice, Context, Decision, read_plans
from common.profiling.profile import Profile
from common.training.heartbeat import DEAD_S, Heartbeat
from common.training.monitor import LinkMonitor
from common.training.moving import Change
from common.training.pace import Pace, Paces
from common.training.profiles import ask_profile
from common.training.recorder import Recorder
from common.training.remote import Cloud
from common.wire.structs import Job
from DIN.options import BaseOptions, JobOptions
from DIN.planning import Proposal
from DIN.recipe import PartyPlan
from DIN.server_labels import ServerLabels
from DIN.train import Finished, plan_all, train_in_process
from tests.serving import serving
from tests.test_vertical_resume import killed_at, persistent
from tests.vertical import RECIPES, clicks, party, same, together, values

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

MIDDLE, NARROW = Context(1e6, 1e6, 0.01), Context(1e5, 1e5, 0.01)  # a batch takes 0.1 s and 1 s; a quarter by int8
FAST, SLOW = Context(1e9, 1e9, 1e-3), Context(3e5, 3e5, 0.5)
SETTING: dict[str, Any] = {"epochs": 3, "label_owner": "server", "replan_s": 1e-6}
PLANNED: dict[str, Any] = {
    "plan": "ours",
    "plan_codecs_up": ("none", "int8"),
    "plan_codecs_down": ("none", "int8"),
    **SETTING,
}
_HEARS_S = 20.0


class Links:
    """What each party believes of its link, by the steps that it has done; and what the parties hear of each other.

    Args:
        patch: takes the place of measuring.
        at: the link of a party.
        awaits: of a party behind a step, whether what it has heard of the others is what it trains on with.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        at: Callable[[str, int], Context],
        awaits: dict[tuple[str, int], Callable[[Pace], bool]],
    ) -> None:
        self._at, self._awaits = at, awaits
        self._done = {"A": 0, "B": 0}
        self._monitors: dict[int, str] = {}
        self._paces: dict[str, Paces] = {}
        self._step, self._propose = Recorder.step, DIN.planning.Proposal.paces
        patch.setattr(Heartbeat.__init__, "__kwdefaults__", {"beat_s": 0.02, "dead_s": DEAD_S})
        patch.setattr(DIN.planning, "ask_profile", self._ask)
        patch.setattr(LinkMonitor, "context", lambda monitor, now_s=None: self._context(monitor))
        patch.setattr(LinkMonitor, "spread", lambda monitor: Spread(0.0, 0.0))

        def step(recorder: Recorder, done: Any) -> None:
            self._record(recorder, done)

        def paces(proposal: Proposal, common: Pace | None) -> Paces:
            return self._known(proposal, common)

        patch.setattr(Recorder, "step", step)
        patch.setattr(Proposal, "paces", paces)

    def _ask(self, cloud: Cloud, job: Job, codecs: Sequence[str], monitor: LinkMonitor) -> tuple[Profile, Context]:
        name = "AB"[job.party]
        profile, _ = ask_profile(cloud, job, codecs, monitor)
        self._monitors[id(monitor)] = name
        return profile, self._at(name, self._done[name])

    def _context(self, monitor: LinkMonitor) -> Context:
        name = self._monitors.get(id(monitor), "")
        return self._at(name, self._done[name]) if name else MIDDLE

    def _known(self, proposal: Proposal, common: Pace | None) -> Paces:
        paces = self._propose(proposal, common)
        name = threading.current_thread().name
        self._paces[name] = paces
        return paces

    def _record(self, recorder: Recorder, done: Any) -> None:
        name = recorder.folder.parent.name
        self._done[name] = done.step + 1
        self._step(recorder, done)
        if (heard := self._awaits.get((name, done.step))) is not None:
            until_s = time.monotonic() + _HEARS_S
            while not heard(self._paces[threading.current_thread().name].others or Pace()):
                assert time.monotonic() < until_s, "the others were not heard"
                time.sleep(0.01)


def plans(run: Finished) -> list[Decision]:
    return read_plans(run.folder / "plans.jsonl")


def first_of(run: Finished) -> dict[str, Any]:
    """What it began with."""
    known = asdict(plans(run)[0].plan) if (run.folder / "plans.jsonl").exists() else run.summary
    return {name: known[name] for name in ("compress_up", "compress_down", "stale_it")}


def changes_of(run: Finished) -> dict[int, Change]:
    """What it changed, by step."""
    if not (run.folder / "plans.jsonl").exists():
        return {}
    found = plans(run)
    return {
        each.step: Change(None, each.plan.compress_up, each.plan.compress_down, each.plan.stale_it)
        for before, each in pairwise(found)
        if each.plan != before.plan
    }


def same_as_planned(patch: pytest.MonkeyPatch, run_dir: Path, runs: Sequence[Finished], **setting: Any) -> None:
    """Assert that the runs are those of one process whose parties change as these did, at the same steps."""
    changes = [changes_of(run) for run in runs]

    def of(plan: PartyPlan, options: JobOptions) -> dict[int, Change]:
        return changes[plan.job.party]

    patch.setattr(DIN.train, "_changes", of)
    options = BaseOptions(**values(run_dir, **setting))
    begun = [
        replace(plan, job=msgspec.structs.replace(plan.job, **first_of(run)))
        for plan, run in zip(plan_all(options, [clicks()] * 3), runs, strict=True)
    ]
    same(runs, train_in_process(begun, options))


def test_each_follows_its_link_and_the_pace_of_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A's link gets slow, and B, which holds up no step any more, stops compressing; until A is fast again."""
    Links(
        monkeypatch,
        lambda name, done: NARROW if name == "A" and 3 <= done < 12 else MIDDLE,
        {("B", 6): lambda others: others.step_s > 0.2, ("B", 14): lambda others: others.step_s < 0.1},
    )
    folder = tmp_path / "server"
    labels = ServerLabels(clicks(), b"", folder)
    with serving(folder, recipes=RECIPES, away_s=20, labels=labels) as server:
        runs = together(*(partial(party, server, tmp_path, name, **PLANNED) for name in "AB"))
    a, b = map(plans, runs)
    assert {each.plan.compress_up for each in a} == {"int8"}
    assert [each.plan.compress_up for each in (b[0], b[-1])] == ["int8", "int8"]
    relaxed = [each for each in b if each.plan.compress_up == "none"]
    assert relaxed
    assert "would be enough, as the other parties take as long" in relaxed[0].reason
    assert all(each.step > 3 for each in relaxed)
    assert runs[1].summary["moves"] >= 2
    assert {each.plan.cut for each in (*a, *b)} == {runs[0].summary["cut"]}
    same_as_planned(monkeypatch, tmp_path / "here", runs, epochs=3, label_owner="server")


def test_a_party_whose_link_gets_slow_begins_to_compress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone: with K, where that is all that it chooses, and the labels at the other party."""
    Links(monkeypatch, lambda name, done: SLOW if name == "A" and done >= 4 else FAST, {})
    setting: dict[str, Any] = {"epochs": 3, "replan_s": 1e-6}
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(
            partial(party, server, tmp_path, "A", **{**PLANNED, **setting, "label_owner": "B"}),
            partial(party, server, tmp_path, "B", **setting, stale_it=1, compress="none"),
        )
    found = plans(runs[0])
    assert (found[0].plan.compress_up, found[-1].plan.compress_up) == ("none", "int8")
    assert found[-1].plan.stale_it > found[0].plan.stale_it
    assert any("it waits for a second look" in each.reason for each in found)
    assert runs[1].summary["moves"] == 0
    same_as_planned(monkeypatch, tmp_path / "here", runs, epochs=3)


def test_a_party_that_is_killed_goes_on_with_what_it_changed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it would begin with; then it looks again, and adds to the log of its decisions."""
    Links(monkeypatch, lambda name, done: SLOW if name == "A" and 4 <= done < 17 else FAST, {})
    killed_at(16, "A", monkeypatch)
    more: dict[str, Any] = {**PLANNED, "label_owner": "B"}
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        run, _ = together(
            partial(persistent, server, tmp_path, "A", **more),
            partial(party, server, tmp_path, "B", epochs=3, stale_it=1, compress="none"),
        )
    assert run.summary["resumes"] == 1
    found = plans(run)
    assert ["before the run" in each.reason for each in found].index(False) == 1
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["compress_up"] for row in rows[14:16]] == ["int8", "int8"]
    for before, row in pairwise(rows):
        plan = Choice(*(row[name] for name in ("cut", "compress_up", "compress_down", "stale_it")))
        if any(row[name] != before[name] for name in ("compress_up", "compress_down", "stale_it")):
            assert plan in [each.plan for each in found if each.step == row["step"]]
    assert "before the run" not in found[-1].reason
