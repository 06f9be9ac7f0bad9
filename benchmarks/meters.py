"""What do the meters cost? Work with and without each, by turns: ``python -m benchmarks.meters [--json FILE]``."""

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.metered_run import run_cost
from benchmarks.table import machine, print_table
from common.command import run_command
from common.config import parse
from common.metering.constant import ConstantPower
from common.metering.energy import EnergyMeter
from common.metering.ina3221 import open_ina3221
from common.metering.memory import MemoryMeter
from common.metering.meter import Meter
from common.metering.rapl import open_rapl
from common.metering.report import Cost, EnergyReport, MemoryReport
from common.metering.sampler import LARGEST_SHARE
from common.metering.source import Source
from common.records import write_json

AnyMeter = Meter[EnergyReport] | Meter[MemoryReport]
_WINDOWS = 200
_REAL_ROUNDS = 10
HURRY = 10


@dataclass(frozen=True)
class Options:
    """Measure what meters cost."""

    interval_ms: float = 50.0
    """Between two samples."""
    rounds: int = 40
    """Rounds without and with each meter."""
    round_s: float = 0.5
    """Length of a round."""
    run_rounds: int = 30
    """Rounds of the run that is metered."""
    json: Path | None = None
    """Write the table here."""
    debug: bool = False
    """Show tracebacks."""


@dataclass(frozen=True)
class Row:
    """What one meter costs."""

    meter: str
    interval_ms: float
    """As it was."""
    own_percent: float
    """CPU time of the sampling thread, as the meter itself tells it: of a core."""
    cpu_percent: float
    """CPU time that the process takes more for the same steps while it is metered, what the steps lose included.

    Measured with about ``HURRY`` times as many samples, in the fastest quarter of the rounds, and divided: what so few
    samples as are taken for real cost is lost in how much two equal rounds differ.
    """
    window_us: float
    """Time of one window's beginning and end."""


def main() -> None:
    """Print the table."""
    options = parse(Options)
    logging.getLogger("common").setLevel(logging.ERROR)  # what each meter says of itself, a line for each round
    print(f"{machine()}; asked: one sample each {options.interval_ms:g} ms; files of boards are fakes on this disk\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(name, make, options) for name, make in _kinds(Path(folder)).items()]
    print_table([asdict(row) for row in rows])
    print(
        "\na training run, resnet20 with head and tail in one process: energy (model), memory by stage, a row each step"
    )
    run = run_cost(options.interval_ms, options.run_rounds)
    print_table([asdict(run)])
    if options.json is not None:
        write_json(options.json, {"machine": machine(), "rows": [asdict(row) for row in rows], "run": asdict(run)})


def _kinds(root: Path) -> dict[str, Callable[[float, float], list[AnyMeter]]]:
    """By name, what makes the meters for an interval and the share that they may take."""
    tx2, rapl = _tx2(root / "tx2"), _rapl(root / "rapl")

    def energy(opened: Callable[[], Source]) -> Callable[[float, float], list[AnyMeter]]:
        return lambda interval_s, share: [EnergyMeter([opened()], interval_s, largest_share=share)]

    def memory(interval_s: float, share: float) -> list[AnyMeter]:
        return [MemoryMeter(interval_s=interval_s, largest_share=share)]

    board = energy(lambda: open_ina3221(tx2))
    return {
        "nothing (two equal rounds)": lambda _interval_s, _share: [],
        "INA3221, 6 rails": board,
        "RAPL, 4 zones": energy(lambda: open_rapl(rapl)),
        "model": energy(lambda: ConstantPower(5, 15)),
        "memory": memory,
        "INA3221 and memory": lambda interval_s, share: board(interval_s, share) + memory(interval_s, share),
    }


def _row(name: str, make: Callable[[float, float], list[AnyMeter]], options: Options) -> Row:
    work, interval_s = _sized(options.round_s), options.interval_ms / 1e3
    costs, hurried = list[Cost](), list[Cost]()
    with _running(make(interval_s, LARGEST_SHARE), costs) as meters:
        for _ in range(_REAL_ROUNDS):
            work()
        window_us = _window_us(meters)
    without_s, with_s = list[float](), list[float]()
    for number in range(options.rounds):
        for metered in (number % 2 == 0, number % 2 == 1):  # by turns first and second
            if metered:
                with _running(make(interval_s / HURRY, 1.0), hurried):
                    with_s.append(_cpu_s(work))
            else:
                without_s.append(_cpu_s(work))
    more = _fast(with_s) / _fast(without_s) - 1
    hurry = _rate(hurried) / _rate(costs) if costs else 1.0
    return Row(
        name,
        1e3 * statistics.mean(cost.mean_interval_s for cost in costs) if costs else 0.0,
        100 * sum(cost.share for cost in costs),
        100 * more / hurry,
        window_us,
    )


@contextlib.contextmanager
def _running(meters: list[AnyMeter], costs: list[Cost]) -> Iterator[list[AnyMeter]]:
    for meter in meters:
        meter.start()
    yield meters
    costs += [meter.stop().cost for meter in meters]


def _window_us(meters: list[AnyMeter]) -> float:
    before_s = time.perf_counter()
    for _ in range(_WINDOWS):
        with contextlib.ExitStack() as stack:
            for meter in meters:
                stack.enter_context(meter.window("step"))
    return 1e6 * (time.perf_counter() - before_s) / _WINDOWS


def _rate(costs: list[Cost]) -> float:
    """Samples a second, of meters that ran equally long."""
    return sum(cost.samples for cost in costs) / sum(cost.elapsed_s for cost in costs)


def _fast(times_s: list[float]) -> float:
    """Mean of the fastest quarter: what others on the machine slow down least."""
    return statistics.mean(sorted(times_s)[: max(1, len(times_s) // 4)])


def _sized(round_s: float) -> Callable[[], None]:
    """So many training steps of a small network that they take about so long here."""
    torch.set_num_threads(1)
    layers = (nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(32 * 16 * 16, 10))
    images, labels = torch.randn(16, 3, 16, 16), torch.zeros(16, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def work(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    work(20)
    before_s = time.perf_counter()
    work(50)
    steps = max(1, round(50 * round_s / (time.perf_counter() - before_s)))
    return lambda: work(steps)


def _cpu_s(work: Callable[[], None]) -> float:
    before_s = time.process_time()
    work()
    return time.process_time() - before_s


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def _tx2(root: Path) -> Path:
    for chip in range(2):
        for channel in range(3):
            folder = root / f"bus/i2c/drivers/ina3221x/0-004{chip}/iio:device{chip}"
            _write(folder / f"in_power{channel}_input", 1000 + channel)
    return root


def _rapl(root: Path) -> Path:
    for zone, name in {"0": "package-0", "0:0": "core", "0:1": "uncore", "0:2": "dram"}.items():
        folder = root / f"class/powercap/intel-rapl:{zone}"
        for file, value in {"name": name, "energy_uj": 123456789, "max_energy_range_uj": 262143328850}.items():
            _write(folder / file, value)
    return root


if __name__ == "__main__":
    run_command(main)
