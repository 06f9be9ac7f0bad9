"""Runs that choose their plan, and change it while the network changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UsageError
from common.planning.log import Context, read_plans
from common.training.monitor import LinkMonitor
from common.training.recorder import Recorder
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_resume import Killed, folder_of, killed_at, losses, values

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

FAST, SLOW = Context(1e10, 1e10, 1e-3), Context(1e3, 1e3, 1e-3)
# An edge so much slower that all belongs on the cloud, unless the link is so slow that nothing does.
SETTING = {"plan": "ours", "compress": "none", "replan_s": 1e-6, "slowdown": 5.0, "checkpoint_every": 0}


def options_for(server: Server, images: str, run_dir: Path, **more: Any) -> ClientOptions:
    flags = {**SETTING, "port": server.port, "hyperport": server.hyperport, **more}
    return ClientOptions(**values(images, run_dir, **flags))


def train(options: ClientOptions) -> Finished:
    return train_with_server(plan_job(options), options)


def link(patch: pytest.MonkeyPatch, at: Callable[[int], Context]) -> None:
    """Let a run believe in a link, by the number of steps that it has done."""
    done = [0]
    real = Recorder.step

    def record(self: Recorder, step: Any) -> None:
        done[0] += 1
        real(self, step)

    patch.setattr(Recorder, "step", record)
    patch.setattr(LinkMonitor, "context", lambda self, now_s=None: at(done[0]))


def cuts(run: Finished) -> list[int]:
    return [each.plan.cut for each in read_plans(run.folder / "plans.jsonl")]


def test_the_plan_follows_the_link(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All on the edge, then on the cloud; back it would have to go over a link that has become too slow for that."""
    link(monkeypatch, lambda done: FAST if 4 <= done < 12 else SLOW)
    setting = {"epochs": 5, "max_stale_it": 1, "stale_it": 0}
    with serving(tmp_path / "server") as server:
        monkeypatch.setattr("common.planning.adapt.FIRST_LIFE_S", 1e4)
        run = train(options_for(server, images, tmp_path / "run", **setting))
    followed = cuts(run)
    assert followed[0] == max(followed) > followed[-1]
    assert 1 <= run.summary["moves"] <= 3
    rows = read_plans(run.folder / "plans.jsonl")
    assert {each.context.up_bps for each in rows} == {1e10, 1e3}
    assert "the best plan is the one that it has" in rows[1].reason
    assert any("it waits for a second look" in each.reason for each in rows)
    assert all(each.predicted_step_s for each in rows)
    assert rows[-1].measured_step_s


def test_all_on_the_edge_sends_nothing(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(monkeypatch, lambda _: SLOW)
    alone = BaseOptions(**values(images, tmp_path / "base", stale_it=0, compress="none"))
    expected = train_in_process(plan_job(alone), alone)
    with serving(tmp_path / "server") as server:
        run = train(options_for(server, images, tmp_path / "run"))
    assert run.summary["bytes_up_per_step"] == run.summary["bytes_down_per_step"] == 0
    assert run.summary["moves"] == 0
    assert losses(run) == losses(expected)
    assert run.summary["parameters_digest"] == expected.summary["parameters_digest"]


@pytest.mark.parametrize("strategy", ["jointdnn", "neurosurgeon", "edge", "cloud"])
def test_what_it_is_compared_with(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    link(monkeypatch, lambda _: FAST)
    with serving(tmp_path / "server") as server:
        run = train(options_for(server, images, tmp_path / "run", plan=strategy))
    assert run.summary["compress_up"] == run.summary["compress_down"] == "none"
    assert len(cuts(run)) == 1
    if strategy in ("jointdnn", "edge"):
        assert run.summary["stale_it"] == 0
    if strategy in ("edge", "cloud"):
        assert (run.summary["cut"] == 0) == (strategy == "cloud")


def test_the_least_staleness_that_suffices(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(monkeypatch, lambda _: Context(1e9, 1e9, 2.0))  # a round trip that no K up to the largest hides
    with serving(tmp_path / "server") as server:
        options = options_for(server, images, tmp_path / "run", plan="fixed", stale_it="auto", max_stale_it=7)
        run = train(options)
    assert run.summary["stale_it"] == 7
    assert run.summary["cut"] == plan_job(options).cut.index


def test_the_schedule_of_k(images: str, tmp_path: Path) -> None:
    setting = {"stale_it": 1, "compress": "none", "epochs": 3, "K_schedule": (1, 2)}
    base = BaseOptions(**values(images, tmp_path / "base", **setting))
    expected = train_in_process(plan_job(base), base)
    assert expected.summary["stale_it"] == 3
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server") as server:
        ports = {"port": server.port, "hyperport": server.hyperport}
        killed_at(9, patch)
        options = ClientOptions(**values(images, tmp_path / "run", **setting, **ports))
        with pytest.raises(Killed):
            train(options)
        patch.undo()
        again = ClientOptions(**values(images, tmp_path, **setting, **ports, resume=folder_of(tmp_path / "run")))
        run = train(again)
    assert losses(run) == losses(expected)


def test_a_schedule_and_auto_are_at_odds(images: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--K_schedule lets a fixed K grow"):
        ClientOptions(**values(images, tmp_path, stale_it="auto", K_schedule=(1,))).check()
