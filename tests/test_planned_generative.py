"""Runs of the generative workload that choose their plan: the edge has the tail, and activations come down."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from common.planning.adapt import Adapter
from common.planning.log import Context, read_plans
from common.planning.problem import Problem
from common.planning.strategies import Fixed
from common.training.pilot import link_of
from common.training.plateau import Plateau
from discriminative.train import Finished, train_with_server
from generative.options import BaseOptions, ClientOptions
from generative.recipe import plan_job
from tests.generating import here, losses, same, served, values
from tests.test_planned_runs import link
from tests.test_resume import Killed, folder_of, killed_at

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

FAST, SLOW = Context(1e10, 1e10, 1e-3), Context(1e3, 1e3, 1e-3)


def train(server: Any, run_dir: Path, **more: Any) -> Finished:
    ports = {"port": server.port, "hyperport": server.hyperport, "reconnect_s": 20.0}
    options = ClientOptions(**values(run_dir, **{"plan": "ours", "replan_s": 1e-6, "slowdown": 5.0, **ports, **more}))
    options.check_plan()
    return train_with_server(plan_job(options), options)


def problems(patch: pytest.MonkeyPatch) -> list[Problem]:
    """What is asked of the engine, as it is asked."""
    asked: list[Problem] = []
    real = Adapter.__init__

    def begin(self: Adapter, problem: Problem, *others: Any, **more: Any) -> None:
        asked.append(problem)
        real(self, problem, *others, **more)

    patch.setattr(Adapter, "__init__", begin)
    return asked


def test_the_plan_follows_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a link that carries nothing all is at the edge; over a fast one what the slow edge need not do is not."""
    link(monkeypatch, lambda done: FAST if done >= 6 else SLOW)
    monkeypatch.setattr("common.planning.adapt.FIRST_LIFE_S", 1e4)
    with served(tmp_path / "server") as server:
        run = train(server, tmp_path / "run", epochs=3, max_stale_it=1)
    rows = read_plans(run.folder / "plans.jsonl")
    cuts = [each.plan.cut for each in rows]
    assert cuts[0] == min(cuts) == 0 < cuts[-1]
    assert 1 <= run.summary["moves"] <= 3
    assert run.summary["cut"] == cuts[-1]
    assert rows[0].plan.stale_it == 0
    assert any("it waits for a second look" in each.reason for each in rows)
    assert all(each.predicted_step_s for each in rows)


def test_all_on_the_edge_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(monkeypatch, lambda _: SLOW)
    expected = here(tmp_path / "base", plateau=Plateau(), split_index=0)
    with served(tmp_path / "server") as server:
        run = train(server, tmp_path / "run", slowdown=1.0)
    assert run.summary["bytes_up_per_step"] == run.summary["bytes_down_per_step"] == 0
    assert run.summary["moves"] == 0
    same(run, expected)


@pytest.mark.parametrize("strategy", ["jointdnn", "edge"])
def test_what_it_is_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    link(monkeypatch, lambda _: FAST)
    with served(tmp_path / "server") as server:
        run = train(server, tmp_path / "run", plan=strategy, compress="int8", epochs=1)
    assert len(read_plans(run.folder / "plans.jsonl")) == 1
    assert (run.summary["compress_up"], run.summary["compress_down"]) == ("none", "none")
    assert run.summary["stale_it"] == 0
    assert (run.summary["cut"] == 0) == (strategy == "edge")


def test_the_least_staleness_that_suffices_and_the_run_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round trip that no K up to the largest hides; each codec is that of its own way. Then the same run, planned."""
    asked = problems(monkeypatch)
    setting = {"compress": "", "compress_up": "int8", "compress_down": "int4/c", "split_index": 4}
    with served(tmp_path / "server") as server, monkeypatch.context() as patch:
        link(patch, lambda _: Context(1e9, 1e9, 2.0))
        more = {"plan": "fixed", "stale_it": "auto", "max_stale_it": 5, "slowdown": 1.0}
        run = train(server, tmp_path / "run", **setting, **more)
    (row, *_) = read_plans(run.folder / "plans.jsonl")
    assert (row.plan.compress_up, row.plan.compress_down, row.plan.stale_it) == ("int8", "int4/c", 5)
    same_plan = {"stale_it": 5, **setting}
    expected = here(tmp_path / "base", plateau=Plateau(), **same_plan)
    assert losses(run) == losses(expected)
    assert run.summary["parameters_digest"] == expected.summary["parameters_digest"]
    (problem,) = asked
    assert (problem.edge_holds, problem.codecs_up, problem.codecs_down) == ("tail", ("int8",), ("int4/c",))
    assert problem.target_bytes == 58 * 3 * 32 * 32 * 4
    assert problem.edge.tail_s[-1] > 0  # the loss


def test_a_planned_run_that_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(monkeypatch, lambda _: Context(1e9, 1e9, 2.0))
    setting: dict[str, Any] = {"split_index": 4, "checkpoint_every": 3, "epochs": 2}
    expected = here(tmp_path / "base", plateau=Plateau(), stale_it=5, **setting)
    more = {"plan": "fixed", "stale_it": "auto", "max_stale_it": 5, "replan_s": 5.0, "slowdown": 1.0, **setting}
    with served(tmp_path / "server") as server:
        with monkeypatch.context() as patch:
            killed_at(10, patch)
            with pytest.raises(Killed):
                train(server, tmp_path / "run", **more)
        run = train(server, tmp_path, resume=folder_of(tmp_path / "run"), **more)
    same(run, expected)
    assert (run.summary["stale_it"], run.summary["resumes"]) == (5, 1)


def test_a_plan_sends_the_bytes_that_it_was_chosen_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the profiles say that crosses at the cut, each way, is what crosses in the run."""
    asked = problems(monkeypatch)
    link(monkeypatch, lambda _: Context(2e7, 4e7, 0.02))
    with served(tmp_path / "server") as server:
        setting = {"compress_up": "int8", "compress_down": "none", "compress": "", "batch_size": 57}  # 8 full batches
        run = train(server, tmp_path / "run", plan="fixed", stale_it="auto", split_index=6, **setting, epochs=1)
    (problem,) = asked
    place = problem.edge.cuts.index(run.summary["cut"])
    up = problem.edge.gradients["int8"].nbytes[place] + problem.edge.input_bytes
    down = problem.cloud.activations["none"].nbytes[place]
    slack = 4 * problem.message_bytes
    assert up < run.summary["bytes_up_per_step"] < up + slack
    assert down < run.summary["bytes_down_per_step"] < down + slack
    (first, *_) = read_plans(run.folder / "plans.jsonl")
    context = link_of(first.context)
    assert context is not None
    known = Problem(
        problem.edge,
        problem.cloud,
        context,
        codecs_up=("int8",),
        codecs_down=("none",),
        edge_holds="tail",
        target_bytes=problem.target_bytes,
    )
    told = Fixed(first.plan.cut, "int8", "none", None).decide(known)
    assert told.stale_it == first.plan.stale_it
    assert told.prediction.step_s == pytest.approx(first.predicted_step_s)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"plan": "cloud"}, "--split_index 11 leaves the edge no more than the loss"),
        ({"plan": "neurosurgeon"}, "begins at the cloud; --plan jointdnn"),
        ({"max_loss": 1.0}, "go together"),
        ({"replan_s": -1.0}, "--replan_s is -1.0"),
    ],
)
def test_plans_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        ClientOptions(**values(tmp_path, **changes)).check_plan()


def test_auto_needs_a_link_and_no_schedule(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--stale_it auto measures a link, and here is none"):
        plan_job(BaseOptions(**values(tmp_path, stale_it="auto")))
    with pytest.raises(UsageError, match="--K_schedule lets a fixed K grow"):
        plan_job(ClientOptions(**values(tmp_path, stale_it="auto", K_schedule=(1,))))


def test_no_plan_within_the_limits_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(monkeypatch, lambda _: FAST)
    with (
        served(tmp_path / "server") as server,
        pytest.raises(UsageError, match=r"no plan is within 0 MiB of memory on the edge"),
    ):
        train(server, tmp_path / "run", edge_memory="1kB")
