"""Parties that choose codecs and K, each for its own link and by what the others say of a step."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

import DIN.planning
from common.errors import PeerError, UsageError
from common.planning.log import Context, Decision, read_plans
from common.profiling.profile import Profile
from common.training.meeting import align
from common.training.monitor import LinkMonitor
from common.training.pace import Pace
from common.training.profiles import ask_profile
from common.training.remote import Cloud
from common.wire.structs import Job
from DIN.options import BaseOptions, ClientOptions
from DIN.server_labels import ServerLabels
from DIN.train import Finished, plan_all, train_in_process
from tests.serving import serving
from tests.test_vertical_refusals import announced
from tests.test_vertical_resume import killed_at, persistent
from tests.vertical import RECIPES, clicks, party, same, together, values

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

NARROW, WIDE = Context(2e6, 8e6, 0.06), Context(1e8, 1e8, 0.05)
PLANNED: dict[str, Any] = {"plan": "ours", "plan_codecs_up": ("none", "int8"), "plan_codecs_down": ("none", "int8")}


def links(patch: pytest.MonkeyPatch, *contexts: Context) -> list[tuple[Job, Profile]]:
    """Let each party believe in a link; what they ask the server, and what it says."""
    told: list[tuple[Job, Profile]] = []

    def ask(cloud: Cloud, job: Job, codecs: Sequence[str], monitor: LinkMonitor) -> tuple[Profile, Context]:
        profile, _ = ask_profile(cloud, job, codecs, monitor)
        told.append((job, profile))
        return profile, contexts[job.party]

    patch.setattr(DIN.planning, "ask_profile", ask)
    return told


def decision(run: Finished) -> Decision:
    (found,) = read_plans(run.folder / "plans.jsonl")
    return found


def same_in_process(run_dir: Path, runs: Sequence[Finished], **setting: Any) -> None:
    """Assert that the runs are those of one process with the parties' own codecs and K."""
    options = BaseOptions(**values(run_dir, **setting))
    plans = [
        replace(
            plan,
            job=msgspec.structs.replace(
                plan.job, **{name: run.summary[name] for name in ("compress_up", "compress_down", "stale_it")}
            ),
        )
        for plan, run in zip(plan_all(options, [clicks()] * 3), runs, strict=True)
    ]
    same(runs, train_in_process(plans, options))


def test_the_party_with_the_narrow_link_sets_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one compresses nothing, as that would make no step shorter; both predict the same step."""
    told = links(monkeypatch, NARROW, WIDE)
    folder = tmp_path / "server"
    labels = ServerLabels(clicks(), b"", folder)
    setting: dict[str, Any] = {"label_owner": "server", "batch_size": 128}
    with serving(folder, recipes=RECIPES, away_s=20, labels=labels) as server:
        runs = together(*(partial(party, server, tmp_path, name, **PLANNED, **setting) for name in "AB"))
    narrow, wide = map(decision, runs)
    assert (narrow.plan.compress_up, wide.plan.compress_up, wide.plan.compress_down) == ("int8", "none", "none")
    assert narrow.plan.stale_it > wide.plan.stale_it
    assert narrow.predicted_step_s == wide.predicted_step_s
    assert narrow.predicted_step_s == pytest.approx(8 * (128 * 48 + 300 + 2 * 128) / 2e6, rel=0.02)
    for run, each in zip(runs, (narrow, wide), strict=True):
        assert run.summary["compress_up"] == each.plan.compress_up
        assert run.summary["stale_it"] == each.plan.stale_it
        assert run.summary["cut"] == each.plan.cut
    for job, profile in told:
        assert profile.tail_s[-1] > 0, job.party  # the top, which no party's model has
    same_in_process(tmp_path / "here", runs, **setting)


def test_the_labels_at_a_party_cost_a_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parties reckon with it: it is in the way of every step."""
    links(monkeypatch, WIDE, WIDE)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(party, server, tmp_path, name, **PLANNED) for name in "AB"))
    one, other = map(decision, runs)
    assert one.predicted_step_s == other.predicted_step_s
    assert 0.05 < (one.predicted_step_s or 0) < 0.1
    assert one.plan.stale_it == other.plan.stale_it == 2  # two round trips and some work, and one is the pace
    same_in_process(tmp_path / "here", runs)


def test_one_may_plan_where_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links(monkeypatch, NARROW, NARROW)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(
            partial(party, server, tmp_path, "A", stale_it="auto", compress="int8", max_stale_it=9),
            partial(party, server, tmp_path, "B", stale_it=4, compress="none"),
        )
    assert decision(runs[0]).plan.compress_up == runs[0].summary["compress_up"] == "int8"
    assert 0 < runs[0].summary["stale_it"] <= 9
    assert (runs[1].summary["stale_it"], runs[1].summary["compress_up"]) == (4, "none")
    assert not (runs[1].folder / "plans.jsonl").exists()
    same_in_process(tmp_path / "here", runs)


@pytest.mark.parametrize("dies", ["A", "B"])
def test_a_party_that_planned_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str) -> None:
    """It goes on with the plan that it had, whatever its link is by then."""
    links(monkeypatch, NARROW, WIDE)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        killed_at(5, dies, monkeypatch)
        runs = together(*(partial(persistent, server, tmp_path, name, **PLANNED) for name in "AB"))
    assert runs["AB".index(dies)].summary["resumes"] >= 1
    for run in runs:
        found = decision(run).plan
        assert (run.summary["compress_up"], run.summary["stale_it"]) == (found.compress_up, found.stale_it)
    same_in_process(tmp_path / "here", runs)


def test_serial_training_is_a_plan_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links(monkeypatch, NARROW, WIDE)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(*(partial(party, server, tmp_path, name, plan="jointdnn", epochs=1) for name in "AB"))
    for each in map(decision, runs):
        assert (each.plan.compress_up, each.plan.compress_down, each.plan.stale_it) == ("none", "none", 0)


def test_a_slower_party_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--slowdown counts in the plan, and in the run's own stages."""
    links(monkeypatch, WIDE, WIDE)
    with serving(tmp_path / "server", recipes=RECIPES, away_s=20) as server:
        runs = together(
            partial(party, server, tmp_path, "A", **PLANNED, epochs=1, slowdown=100.0),
            partial(party, server, tmp_path, "B", **PLANNED, epochs=1),
        )
    edges = [run.summary["stages_s"]["edge"] for run in runs]
    assert edges[0] > 20 * edges[1]
    assert (decision(runs[1]).predicted_step_s or 0) > 20 * edges[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": "ours", "cut": "cat_1"}, r"--cut cat_1 is within a block.*cut at cat_2 or .*sum_5"),
        ({"plan": "ours"}, "could not be measured"),
        ({"plan": "ours", "max_stale_it": 0}, "--max_stale_it is 0"),
        ({"max_loss": 1.0}, "go together"),
        ({"stale_it": -1}, "--stale_it is -1"),
    ],
)
def test_plans_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    links(monkeypatch, Context(1e6, None, 0.1))
    with (
        serving(tmp_path / "server", recipes=RECIPES, away_s=2) as server,
        pytest.raises(UsageError, match=words),
    ):
        party(server, tmp_path, "A", **changes)


def test_auto_needs_a_link(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--stale_it auto measures a link, and here is none"):
        plan_all(BaseOptions(**values(tmp_path, stale_it="auto")), [clicks()] * 2)
    assert not ClientOptions(party="A").plans


@pytest.mark.parametrize("pace", [Pace(step_s=-1.0), Pace(turn_s=float("nan")), Pace(step_s=1e9)])
def test_a_pace_that_no_step_can_have(tmp_path: Path, pace: Pace) -> None:
    with serving(tmp_path / "server", recipes=RECIPES, away_s=2) as server:
        cloud = Cloud("127.0.0.1", server.port, server.hyperport)
        with pytest.raises(PeerError, match="a step is said to take"):
            align(cloud, "a run", 0, 2, 0, b"", lambda _: announced(1, 2), pace)
