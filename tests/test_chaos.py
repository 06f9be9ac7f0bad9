"""Runs that are broken, frozen and killed in their midst end as those that nothing disturbs, to the last bit."""

import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos_kills import Victims
from benchmarks.chaos_link import Place, Standstill, Storm, Survived, place, train
from benchmarks.chaos_runs import SETTINGS, Images, Outcome, Setting, client_options, undisturbed
from common.link.contexts import LinkContext
from common.training import edge, remote
from common.training.heartbeat import Heartbeat
from common.training.hosted import Hosted
from common.training.line import Line
from common.training.recorder import Recorder
from common.training.station import Station
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process, train_with_server
from tests.serving import serving
from tests.test_resume import Killed, folder_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FAST = LinkContext("fast", 1000, 1000, 0)
SMALL = Setting("small", {"stale_it": 1, "compress_up": "int4/c+zstd", "compress_down": "int8", "checkpoint_every": 2})
EPOCHS, STEPS = 1, 5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images.make(tmp_path_factory.mktemp("images"), STEPS)


@pytest.fixture(scope="module")
def expected(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Setting], Outcome]:
    outcomes: dict[str, Outcome] = {}

    def of(setting: Setting) -> Outcome:
        if setting.name not in outcomes:
            outcomes[setting.name] = undisturbed(images, setting, tmp_path_factory.mktemp("undisturbed"), EPOCHS)
        return outcomes[setting.name]

    return of


def run(here: Place, images: Images, setting: Setting, tmp_path: Path) -> Survived:
    return train(here, images, setting, tmp_path / "runs", EPOCHS)


@pytest.mark.parametrize("setting", [SETTINGS[0], SETTINGS[3]], ids=["exact", "memory-tls"])
def test_a_link_that_breaks_all_the_time(
    images: Images, expected: Callable[[Setting], Outcome], tmp_path: Path, setting: Setting
) -> None:
    undisturbed = expected(setting)
    with (
        place(tmp_path, tls=setting.tls) as here,
        Storm(here.link, random.Random(3), interval_s=0.2, most=8) as storm,
    ):
        survived = run(here, images, setting, tmp_path)
    assert survived.difference(undisturbed) == ""
    assert storm.faults > 3
    assert survived.outcome.summary["faults"] > 0


MOMENTS: dict[str, tuple[Any, str, int]] = {
    "a session was opened": (remote, "_compare_clocks", 2),
    "it attaches": (remote, "_attach", 2),
    "a checkpoint is taken": (Station, "_keep", 1),
    "an epoch is over": (Recorder, "epoch", 1),
    "all is answered": (Hosted, "_save", 1),
    "the last words are due": (Line, "end", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_link_that_breaks_just_when(
    images: Images,
    expected: Callable[[Setting], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    undisturbed, broken = expected(SMALL), list[int]()
    owner, name, times = MOMENTS[moment]
    real = getattr(owner, name)
    with place(tmp_path, tls=False, context=FAST) as here:

        def breaking(*args: Any, **more: Any) -> Any:
            if len(broken) < times:
                broken.append(here.link.sever())
            return real(*args, **more)

        monkeypatch.setattr(owner, name, breaking)
        survived = run(here, images, SMALL, tmp_path)
    assert survived.difference(undisturbed) == ""
    assert len(broken) == times
    assert broken[0]  # a later one may come before the link has taken the next connection


def beating(monkeypatch: pytest.MonkeyPatch, beat_s: float, dead_s: float) -> None:
    monkeypatch.setattr(edge, "Heartbeat", partial(Heartbeat, beat_s=beat_s, dead_s=dead_s))


def test_a_link_that_stands_still(
    images: Images, expected: Callable[[Setting], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = expected(SMALL)
    beating(monkeypatch, 0.1, 0.5)
    with place(tmp_path, tls=False) as here, Standstill(here, 2, 0.5) as still:
        survived = run(here, images, SMALL, tmp_path)
    assert survived.difference(undisturbed) == ""
    assert survived.outcome.summary["faults"] >= 1
    assert still.noticed_s > 0
    assert still.recovered_s > 0


def test_a_link_that_is_slow_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame takes longer than the heartbeat has patience, and the ping waits behind it."""
    images, frame_s, dead_s = Images.make(tmp_path, 1), 655_360 * 8 / 4e6, 1.0
    assert frame_s > dead_s
    beating(monkeypatch, 0.1, dead_s)
    with place(tmp_path, tls=False, context=LinkContext("slow", 4, 1000, 0)) as here:
        survived = run(here, images, SETTINGS[0], tmp_path)
    assert survived.outcome.summary["faults"] == 0
    assert survived.seconds > 3 * frame_s


@pytest.mark.parametrize("with_server", [True, False], ids=["server", "in-process"])
def test_a_run_that_is_killed_when_only_its_summary_is_due(
    images: Images,
    expected: Callable[[Setting], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_server: bool,
) -> None:
    """The cloud must not have forgotten the session by then."""

    def killed(*_args: Any, **_more: Any) -> None:
        raise Killed

    with place(tmp_path, tls=False, context=FAST) as here:

        def trained(**more: Any) -> Outcome:
            if with_server:
                return train(here, images, SMALL, tmp_path / "runs", EPOCHS, **more).outcome
            options = BaseOptions(**images.options(SMALL, tmp_path / "runs", EPOCHS), **more)
            return Outcome.read(train_in_process(plan_job(options), options).folder)

        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "finish", killed)
            with pytest.raises(Killed):
                trained()
        assert trained(resume=folder_of(tmp_path / "runs")).difference(expected(SMALL)) == ""


def test_a_server_that_dies_again_and_again(
    images: Images, expected: Callable[[Setting], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, real, dying = expected(SMALL), Recorder.step, [1, 3]
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "server"))
        ports = server.port, server.hyperport

        def record(self: Recorder, done: Any) -> None:
            nonlocal server
            real(self, done)
            if done.step in dying:
                dying.remove(done.step)
                server.close()
                port, hyperport = ports
                server = stack.enter_context(serving(tmp_path / "server", port=port, hyperport=hyperport))

        monkeypatch.setattr(Recorder, "step", record)
        options = client_options(images, SMALL, tmp_path / "runs", EPOCHS, ports)
        run = train_with_server(plan_job(options), options)
    assert Outcome.read(run.folder).difference(undisturbed) == ""
    assert not dying


def test_processes_that_are_killed(images: Images, expected: Callable[[Setting], Outcome], tmp_path: Path) -> None:
    setting = SETTINGS[1]
    with Victims(images, setting, tmp_path / "victims", EPOCHS, random.Random(5), ("both",)) as victims:
        killed = victims.run(1)
    assert killed.kills == 2
    assert killed.outcome.difference(expected(setting)) == ""
