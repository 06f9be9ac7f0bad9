"""The parts of measuring: what a graph keeps, codecs, time, energy, and the program's flags."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import UsageError
from common.metering.detect import Detected
from common.metering.rails import Rail
from common.metering.source import Reading
from common.profiling.__main__ import Options, _check
from common.profiling.codecs import measure_codec, require_codecs
from common.profiling.counting import energy_mj
from common.profiling.device import device_name
from common.profiling.energy import energy_counter
from common.profiling.saved import saved_bytes
from common.profiling.stopwatch import Stopwatch
from tests.test_profiling import Ticks

# What a graph keeps


def test_a_tensor_between_two_blocks_counts_once() -> None:
    first, second = nn.Sequential(nn.Linear(8, 64), nn.ReLU()), nn.Linear(64, 4)
    x = torch.rand(16, 8)
    h = first(x).detach()

    def through(part: nn.Module, values: Tensor) -> tuple[tuple[Tensor], Tensor]:
        leaf = values.clone().requires_grad_()
        return (leaf,), part(leaf)

    found = saved_bytes(
        [partial(through, first, x), partial(through, second, h)], [*first.parameters(), *second.parameters()]
    )

    # The first keeps x and its ReLU's output; the second keeps that output, which is there already.
    assert found == [16 * 8 * 4 + 16 * 64 * 4, 0]


# Codecs


def test_a_codec_is_timed_only_where_it_serves() -> None:
    tensors = [torch.rand(4, 8, 16, 16)]
    watch = Stopwatch("cpu")

    up = measure_codec("int8", "up", tensors, watch, 1)
    nothing = measure_codec("int8", "down", [], watch, 1)

    assert up is not None
    assert up.nbytes == pytest.approx(4 * 8 * 256, rel=0.05)
    assert up.encode_s > 0
    assert nothing == (0.0, 0.0, 0.0)
    assert measure_codec("ef+int8", "up", tensors, watch, 1) is None
    assert measure_codec("ef+int8", "down", tensors, watch, 1) is not None
    with pytest.raises(UsageError, match="int9"):
        require_codecs(["none", "int9"])


# Time and energy


def test_a_stopwatch_on_a_cpu_counts_work_and_not_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.profiling.stopwatch.time.thread_time", Ticks())
    stop = Stopwatch("cpu").start()
    assert stop() == 1.0


class Counter:
    """Counts 5 mJ for each piece of work."""

    name = "counter"

    def __init__(self) -> None:
        self.work = 0

    def read_mj(self) -> float:
        return 5.0 * self.work

    def do(self) -> None:
        self.work += 1


def test_energy_is_that_of_one_piece_of_work_however_often_it_is_done() -> None:
    counter = Counter()

    found = energy_mj(counter, counter.do, least_s=10.0, clock=Ticks())

    assert found == 5.0
    assert counter.work >= 9


class Wall:
    """A sensor at the plug: 8 W whenever it is asked."""

    name = "wall"
    rails = (Rail("wall", "board", True),)

    def __init__(self) -> None:
        self.closed = False

    def read(self) -> Reading:
        return Reading({"wall": 8.0})

    def close(self) -> None:
        self.closed = True


@pytest.mark.slow
def test_the_sensors_of_the_machine_are_counted_and_let_go() -> None:
    wall = Wall()

    with energy_counter(lambda: Detected((wall,), ())) as counter:
        assert counter is not None
        assert counter.name == "wall"
        deadline_s = time.perf_counter() + 5
        while counter.read_mj() < 800 and time.perf_counter() < deadline_s:  # 0.1 s at 8 W
            pass
        assert counter.read_mj() >= 800

    assert wall.closed


def test_without_a_sensor_there_is_no_counter() -> None:
    with energy_counter(lambda: Detected((), ("rapl: no",))) as counter:
        assert counter is None


def test_a_cpu_has_a_name() -> None:
    assert device_name("cpu")


# The program


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (Options("m", rounds=0), "--rounds"),
        (Options("m", threads=-1), "--threads"),
        (Options("m", device="tpu"), "--device is 'tpu'"),
        (Options("m", device="cuda:99"), "--device is cuda:99"),
        (Options("m", out=Path("/nowhere/p.csv")), "no folder"),
        (Options("m", out=Path("p.txt")), "end in .csv"),
    ],
)
def test_wrong_flags_are_told_before_the_work(options: Options, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        _check(options)
