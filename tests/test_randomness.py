"""The random numbers of a step: a function of seed and step, shared by head and tail, and nobody else's."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from common.training.randomness import step_seed, step_stream

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _outer_state_is_kept() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def draw(seed: int, step: int, state: Tensor | None = None, count: int = 5) -> tuple[Tensor, Tensor | None]:
    with step_stream(seed, step, CPU, state) as stream:
        numbers = torch.rand(count)
    return numbers, stream.drawn


def test_seed_and_step_fix_the_numbers() -> None:
    first, _ = draw(3, 7)

    assert torch.equal(draw(3, 7)[0], first)
    assert not torch.equal(draw(3, 8)[0], first)
    assert not torch.equal(draw(4, 7)[0], first)


def test_every_seed_and_step_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(seed, step) for seed in range(100) for step in range(100)}

    assert len(seeds) == 10_000
    assert all(0 <= each < 1 << 64 for each in seeds)


@pytest.mark.parametrize("seed", [0, (1 << 63) - 1])
def test_the_largest_seeds_and_steps_can_be_used(seed: int) -> None:
    assert draw(seed, 1 << 40)[0].shape == (5,)


def test_the_tail_goes_on_where_the_head_stopped() -> None:
    whole, _ = draw(1, 2, count=10)

    ahead, state = draw(1, 2, count=4)
    behind, _ = draw(1, 2, state, count=6)

    assert torch.equal(torch.cat([ahead, behind]), whole)


def test_normal_numbers_are_continued_as_well() -> None:
    # torch draws them in pairs and keeps the second one: it is part of the state.
    with step_stream(0, 0, CPU):
        whole = torch.stack([torch.randn(()) for _ in range(4)])
    with step_stream(0, 0, CPU) as stream:
        first = torch.randn(())
    with step_stream(0, 0, CPU, stream.drawn):
        rest = torch.stack([torch.randn(()) for _ in range(3)])

    assert torch.equal(torch.cat([first[None], rest]), whole)


def test_a_head_that_draws_nothing_has_no_state_to_send() -> None:
    with step_stream(1, 2, CPU) as stream:
        torch.zeros(3)

    assert stream.drawn is None


def test_a_tail_that_draws_nothing_more_has_no_state_to_send() -> None:
    _, state = draw(1, 2)

    with step_stream(1, 2, CPU, state) as stream:
        torch.zeros(3)

    assert state is not None
    assert stream.drawn is None


def test_a_state_of_another_kind_of_generator_is_passed_over() -> None:
    of_cuda = torch.zeros(16, dtype=torch.uint8)

    assert torch.equal(draw(1, 2, of_cuda)[0], draw(1, 2)[0])


def test_the_state_that_is_handed_over_is_not_changed() -> None:
    _, state = draw(1, 2)
    assert state is not None
    before = state.clone()

    draw(1, 2, state)

    assert torch.equal(state, before)


def test_an_error_inside_leaves_the_outer_state() -> None:
    before = torch.get_rng_state()

    with pytest.raises(RuntimeError, match="shape"), step_stream(1, 2, CPU):
        torch.rand(5).reshape(2, 2)

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draw(1, 2)[0], draw(1, 2)[0])  # and the next step is not blocked


def test_threads_do_not_disturb_each_other() -> None:
    expected = {seed: [draw(seed, step)[0] for step in range(50)] for seed in (1, 2)}
    found: dict[int, list[Tensor]] = {1: [], 2: []}
    start = threading.Barrier(2)

    def run(seed: int) -> None:
        start.wait(timeout=30)
        for step in range(50):
            with step_stream(seed, step, CPU):
                found[seed].append(torch.cat([torch.rand(1) for _ in range(5)]))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    for seed, numbers in found.items():
        assert torch.equal(torch.stack(numbers), torch.stack(expected[seed]))
