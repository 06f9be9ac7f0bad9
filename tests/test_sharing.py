"""Several edges on one server: a common tail, or the mean of their parts behind each epoch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.errors import ConnectionLost, TandemError
from common.training.part_state import VALUE, State
from common.training.remote import open_session
from common.training.serve import Server
from common.training.sharing import Groups, Parts, Rounds, Share
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_resume import losses, values
from tests.test_session_rules import JOB

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

SETTING = {"stale_it": 1, "compress": "none"}


def part(value: float, batches: int = 0) -> State:
    return {("weight", VALUE): torch.full((3,), value), ("seen", VALUE): torch.tensor(batches)}


def brought(samples: int, value: float, batches: int = 0) -> Parts:
    return Parts(samples, part(value, batches), part(-value))


class TestRounds:
    def test_a_mean_is_weighted_by_samples(self) -> None:
        rounds = Rounds(2)
        with ThreadPoolExecutor(2) as pool:
            rounds.join("a")
            first = pool.submit(rounds.mean, "a", brought(10, 1.0, 3))
            rounds.join("b")
            second = pool.submit(rounds.mean, "b", brought(30, 5.0, 7))
            for mean, edges in (first.result(20), second.result(20)):
                assert edges == 2
                assert mean.samples == 40
                assert torch.equal(mean.head["weight", VALUE], torch.full((3,), 4.0))
                assert torch.equal(mean.tail["weight", VALUE], torch.full((3,), -4.0))
                assert mean.head["seen", VALUE] == 7

    def test_the_order_of_coming_makes_no_difference(self) -> None:
        torch.manual_seed(0)
        several = [Parts(n, {("w", VALUE): torch.randn(1000)}, {}) for n in (3, 11, 7)]
        means = []
        for order in ((0, 1, 2), (2, 0, 1)):
            rounds = Rounds(3)
            with ThreadPoolExecutor(3) as pool:
                for i in order:
                    rounds.join(str(i))
                taken = [pool.submit(rounds.mean, str(i), several[i]) for i in order]
                means += [each.result(20)[0].head["w", VALUE] for each in taken]
        assert all(torch.equal(means[0], each) for each in means)

    def test_who_leaves_is_waited_for_no_more(self) -> None:
        rounds = Rounds(2)
        for name in "abc":
            rounds.join(name)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(rounds.mean, name, brought(1, value)) for name, value in (("a", 1.0), ("b", 2.0))]
            assert not any(each.done() for each in waiting)
            rounds.leave("c")
            assert {each.result(20)[1] for each in waiting} == {2}
            alone = pool.submit(rounds.mean, "a", brought(1, 3.0))
            rounds.leave("b")
            assert alone.result(20)[1] == 1

    def test_one_that_has_left_hears_of_it(self) -> None:
        rounds = Rounds(1)
        rounds.join("a")
        rounds.join("b")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(rounds.mean, "a", brought(1, 1.0))
            rounds.leave("a")
            with pytest.raises(ConnectionLost, match="has ended while it waited"):
                waiting.result(20)


def test_a_group_lives_as_long_as_its_members() -> None:
    groups = Groups(Share.TAIL, 1)
    first, leave_first = groups.join("a", JOB)
    second, leave_second = groups.join("b", JOB)
    assert first is second
    leave_first()
    assert groups.join("c", JOB)[0] is first
    leave_second()
    leave_second()


def train(server: Server, run_dir: Path, images: str, **more: Any) -> Finished:
    ports = {"port": server.port, "hyperport": server.hyperport}
    options = ClientOptions(**values(images, run_dir, **SETTING, **ports, **more))
    return train_with_server(plan_job(options), options)


def together(*runs: Callable[[], Finished]) -> list[Finished]:
    with ThreadPoolExecutor(len(runs)) as pool:
        return [each.result(100) for each in [pool.submit(run) for run in runs]]


@pytest.fixture
def other_images(tmp_path: Path) -> str:
    """Fewer, and other ones."""
    rng = np.random.default_rng(8)
    counts = {"train": 30, "test": 20}
    arrays = {f"{name}_images": rng.integers(0, 256, (n, 16, 16, 3), np.uint8) for name, n in counts.items()}
    arrays |= {f"{name}_labels": np.arange(n) % 10 for name, n in counts.items()}
    path = tmp_path / "other.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return f"npz:{path}"


@pytest.mark.parametrize("share", [Share.TAIL, Share.AVERAGE])
def test_alone_it_is_as_without(images: str, tmp_path: Path, share: Share) -> None:
    options = BaseOptions(**values(images, tmp_path / "base", **SETTING))
    expected = train_in_process(plan_job(options), options)
    with serving(tmp_path / "server", share=share) as server:
        run = train(server, tmp_path / "client", images)
    assert losses(run) == losses(expected)
    assert run.summary["parameters_digest"] == expected.summary["parameters_digest"]


def test_the_mean_of_equals_is_each_of_them(images: str, tmp_path: Path) -> None:
    options = BaseOptions(**values(images, tmp_path / "base", **SETTING))
    expected = train_in_process(plan_job(options), options)
    with serving(tmp_path / "server", share=Share.AVERAGE, clients=2) as server:
        runs = together(*(lambda i=i: train(server, tmp_path / f"client{i}", images) for i in range(2)))
    for run in runs:
        assert losses(run) == losses(expected)
        assert run.summary["parameters_digest"] == expected.summary["parameters_digest"]


def test_edges_with_other_data_end_with_one_model(images: str, other_images: str, tmp_path: Path) -> None:
    with serving(tmp_path / "server", share=Share.AVERAGE, clients=2) as server:
        first, second = together(
            lambda: train(server, tmp_path / "first", images), lambda: train(server, tmp_path / "second", other_images)
        )
    assert losses(first) != losses(second)
    assert first.summary["parameters_digest"] == second.summary["parameters_digest"]


def test_a_common_tail_learns_from_all(images: str, other_images: str, tmp_path: Path) -> None:
    alone = train_alone(images, tmp_path)
    with serving(tmp_path / "server", share=Share.TAIL) as server:
        first, second = together(
            lambda: train(server, tmp_path / "first", images), lambda: train(server, tmp_path / "second", other_images)
        )
        assert server._groups.join("x", plan_job(options(images, tmp_path)).job)[0].tail is None  # a new group
    assert first.summary["parameters_digest"] != alone.summary["parameters_digest"]
    tails = [load_file(path) for path in sorted((tmp_path / "server").glob("*/tail.safetensors"))]
    assert len(tails) == 2
    # Steps of both: BatchNorm has counted the batches of two edges with four and three steps in each of two epochs.
    counted = [int(n) for tail in tails for name, n in tail.items() if name.endswith("num_batches_tracked")]
    assert max(counted) == 14
    assert {first.summary["steps"], second.summary["steps"]} == {8, 6}


def options(images: str, tmp_path: Path, **more: Any) -> BaseOptions:
    return BaseOptions(**values(images, tmp_path / "base", **SETTING, **more))


def train_alone(images: str, tmp_path: Path) -> Finished:
    chosen = options(images, tmp_path)
    return train_in_process(plan_job(chosen), chosen)


def test_the_others_go_on_when_one_is_lost(images: str, tmp_path: Path) -> None:
    with serving(tmp_path / "server", share=Share.AVERAGE, clients=2, away_s=0.3) as server:
        plan = plan_job(options(images, tmp_path))
        lost = open_session("127.0.0.1", server.port, server.hyperport, plan.job, 1 << 24)
        done = threading.Event()

        def vanish() -> None:
            done.wait(1.0)
            lost.training.close()
            lost.control.close()

        with ThreadPoolExecutor(1) as pool:
            gone = pool.submit(vanish)
            run = train(server, tmp_path / "client", images)
            done.set()
            gone.result(20)
    assert run.summary["epochs"] == 2


def test_a_common_tail_is_not_moved(images: str, tmp_path: Path) -> None:
    with serving(tmp_path / "server", share=Share.TAIL) as server, pytest.raises(TandemError, match="is not moved"):
        train(server, tmp_path / "client", images, move=("2:4",))
