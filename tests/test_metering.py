"""The energy meter over time: sums, counters that wrap, rails that vanish, windows, a sampler that dies, its cost."""

import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from common.errors import UsageError
from common.metering.detect import detect
from common.metering.energy import EnergyMeter, EnergySample
from common.metering.ina3221 import open_ina3221
from common.metering.integral import segment
from common.metering.ledger import Ledger
from common.metering.marks import VARIABLE, MarkReader, mark
from common.metering.meter import Meter, NullMeter
from common.metering.nvml import Nvml
from common.metering.rails import Rail, role_of
from common.metering.rapl import open_rapl
from common.metering.report import EnergyReport
from common.metering.sampler import Sampler, Timing
from common.metering.source import Reading, SensorError, Source
from tests.test_metering_boards import FakeNvml, orin, rapl, tx2, write

WATTS, COUNTER = Rail("watts", "cpu"), Rail("counter", "cpu", counter=True, range_j=100.0)


class Machine:
    """A machine whose time passes only while its meter waits, and on which things happen at set times."""

    def __init__(self, end_s: float, sample_cpu_s: float = 0.0) -> None:
        self.now_s, self.end_s, self.cpu_s = 0.0, end_s, 0.0
        self.sample_cpu_s = sample_cpu_s
        self.always: list[Callable[[float], None]] = []
        self.at: list[tuple[float, Callable[[], None]]] = []
        self.timing = Timing(lambda: self.now_s, self._cpu, self._wait)

    def _cpu(self) -> float:
        """Asked before and after each sample; what lies between is its cost."""
        self.cpu_s += self.sample_cpu_s
        return self.cpu_s

    def _wait(self, _: threading.Event, seconds: float) -> bool:
        then_s = min(self.now_s + seconds, self.end_s)
        for time_s, happen in sorted(self.at, key=lambda each: each[0]):
            if self.now_s <= time_s < then_s:
                self.now_s = time_s
                happen()
                self.at.remove((time_s, happen))
        self.now_s = then_s
        for change in self.always:
            change(self.now_s)
        return then_s >= self.end_s

    def run(self, *sources: Source, on_sample: Callable[[EnergySample], None] | None = None) -> EnergyReport:
        meter = EnergyMeter(sources, timing=self.timing, on_sample=on_sample)
        return self.finish(meter)

    def finish(self, meter: EnergyMeter) -> EnergyReport:
        for change in self.always:
            change(self.now_s)
        meter.start()
        meter._sampler._thread.join(5)  # its waits take no time: it runs to the end at once
        return meter.stop()


class Played:
    """A source that plays values over a machine's time; None: that rail cannot be read."""

    name = "played"

    def __init__(self, machine: Machine, rails: Mapping[Rail, Callable[[float], float | None]]) -> None:
        self.rails, self._play, self._machine = tuple(rails), rails, machine
        self.closed = False

    def read(self) -> Reading:
        values = {rail.name: play(self._machine.now_s) for rail, play in self._play.items()}
        lost = {name: "gone" for name, value in values.items() if value is None}
        return Reading({name: value for name, value in values.items() if value is not None}, lost)

    def close(self) -> None:
        self.closed = True


def joules(report: EnergyReport) -> dict[str, float]:
    return {rail.name: rail.joules for rail in report.rails}


def test_a_trapezoid_is_the_area_and_its_parts_sum_up() -> None:
    line = segment(WATTS, 1.0, 2.0, 3.0, 6.0)
    assert line is not None

    assert line.joules == 8.0
    assert line.joules_between(0, 2) == pytest.approx(3.0)
    assert line.joules_between(2, 9) == pytest.approx(5.0)
    assert line.joules_between(4, 5) == 0.0


@pytest.mark.parametrize(
    ("range_j", "before", "after", "gained"),
    [(100.0, 10, 30, 20), (100.0, 95, 5, 10), (None, 10, 30, 20), (None, 95, 5, None), (100.0, 7, 7, 0)],
)
def test_a_counter_gains_across_its_wrap(range_j: float | None, before: float, after: float, gained: float) -> None:
    line = segment(Rail("r", "cpu", counter=True, range_j=range_j), 0.0, before, 2.0, after)

    assert (None if line is None else line.joules) == gained


def test_ina3221_sums_a_changing_power_to_a_thousandth(tmp_path: Path) -> None:
    tx2(tmp_path)
    end_s = 0.8
    machine, files = Machine(end_s), tmp_path / "bus/i2c/drivers/ina3221x"

    def change(now_s: float) -> None:
        write(files / "0-0040/iio:device0/in_power0_input", round(3000 + 2000 * math.sin(2 * now_s)))
        write(files / "0-0041/iio:device1/in_power0_input", round(5000 + 100 * now_s))

    machine.always.append(change)
    report = machine.run(open_ina3221(tmp_path))

    assert joules(report)["VDD_SYS_GPU"] == pytest.approx(3 * end_s + (1 - math.cos(2 * end_s)), rel=1e-3)
    assert report.total_j == pytest.approx(5 * end_s + 0.1 * end_s**2 / 2, rel=1e-3)
    assert report.mean_w == pytest.approx(5 + 0.05 * end_s, rel=1e-3)
    assert report.peak_w == pytest.approx(5 + 0.1 * end_s, rel=1e-3)
    assert joules(report)["VDD_SYS_CPU"] == pytest.approx(1.83 * end_s, rel=1e-3)
    assert report.cost.samples == pytest.approx(end_s * 20 + 2, abs=1)


def test_rapl_wraps_many_times(tmp_path: Path) -> None:
    rapl(tmp_path, range_uj=5_000_000)
    machine = Machine(1.0)
    machine.always.append(
        lambda now_s: write(tmp_path / "class/powercap/intel-rapl:0/energy_uj", int((4 + 45 * now_s) * 1e6 % 5e6))
    )
    report = machine.run(open_rapl(tmp_path))

    assert joules(report)["package-0"] == pytest.approx(45, rel=1e-3)
    assert report.peak_w == pytest.approx(45, rel=1e-3)
    assert report.total_j == joules(report)["package-0"]  # psys and the parts stand still here


def test_nvml_counts_what_happens_between_samples() -> None:
    api, machine = FakeNvml(), Machine(10.0)
    machine.always.append(lambda now_s: api.energy_mj.update({0: 5_000_000 + round(250_000 * now_s)}))

    assert machine.run(Nvml(api, visible="0")).total_j == pytest.approx(2500, rel=1e-3)


def test_a_rail_that_vanishes_and_returns_is_told_and_counts_what_was_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    orin(tmp_path)
    machine, folder, away = Machine(2.0), tmp_path / "bus/i2c/drivers/ina3221/1-0041", tmp_path / "away"
    machine.at = [(0.52, partial(os.rename, folder, away)), (1.02, partial(os.rename, away, folder))]
    report = machine.run(open_ina3221(tmp_path))
    lost = {rail.name: rail for rail in report.rails if rail.fault}

    assert set(lost) == {"VDDQ_VDD2_1V8AO"}
    rail = lost["VDDQ_VDD2_1V8AO"]
    assert rail.joules == pytest.approx(1.0 * 1.45, rel=1e-3)
    assert rail.measured_s == pytest.approx(1.45, rel=1e-3)
    assert rail.mean_w == pytest.approx(1.0)
    assert rail.fault is not None
    assert rail.fault.startswith("lost after 0.55 s: ")
    assert rail.fault.endswith("No such file or directory; back after 1.05 s")
    assert joules(report)["VDD_GPU_SOC"] == pytest.approx(6.93 * 2, rel=1e-3)
    assert len([record for record in caplog.records if "VDDQ" in record.getMessage()]) == 2  # not one a sample


def test_short_gaps_are_bridged_and_a_counter_bridges_all() -> None:
    machine = Machine(10.0)
    gap = Played(
        machine,
        {
            WATTS: lambda now_s: None if 2.02 < now_s < 2.12 else 3.0,
            Rail("counter", "gpu", counter=True): lambda now_s: None if 3 < now_s < 8 else 7 * now_s,
        },
    )
    report = machine.run(gap)

    assert joules(report) == {"watts": pytest.approx(30), "counter": pytest.approx(70)}
    assert gap.closed


def test_a_source_that_dies_takes_no_other_with_it() -> None:
    machine = Machine(4.0)

    class Dying(Played):
        def read(self) -> Reading:
            if machine.now_s > 1.02:
                raise SensorError("the service has ended")
            return super().read()

    report = machine.run(Dying(machine, {WATTS: lambda _: 2.0}), Played(machine, {COUNTER: lambda now_s: now_s % 100}))

    assert joules(report) == {"watts": pytest.approx(2.0), "counter": pytest.approx(4.0)}
    assert report.rails[0].fault == "lost after 1.05 s: the service has ended"
    assert report.failure is None


def test_a_sampler_that_dies_leaves_what_it_measured_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(4.0)

    def breaks(now_s: float) -> float:
        return 2.0 if now_s < 1.02 else 1 // 0

    report = machine.run(Played(machine, {WATTS: breaks}))

    assert report.failure is not None
    assert "died behind 21 samples, after 1.05 s: ZeroDivisionError" in report.failure
    assert "what it measured before is kept" in caplog.text
    assert report.total_j == pytest.approx(2 * 1.0)


def test_windows_get_their_share_of_what_the_samples_say() -> None:
    machine = Machine(3.0)
    meter = EnergyMeter(
        [Played(machine, {WATTS: lambda now_s: 10 * now_s, COUNTER: lambda now_s: 4 * now_s})], timing=machine.timing
    )
    with ExitStack() as outer, ExitStack() as inner:
        machine.at = [
            (0.513, lambda: outer.enter_context(meter.window("step"))),
            (1.007, lambda: inner.enter_context(meter.window("forward"))),
            (1.013, inner.close),  # shorter than the interval
            (2.4, lambda: inner.enter_context(meter.window("forward"))),
            (2.5, inner.close),
            (2.901, outer.close),
        ]
        machine.at.append((0.6, lambda: meter.mark("half")))
        report = machine.finish(meter)

    def area(start_s: float, end_s: float) -> float:
        return 5 * (end_s**2 - start_s**2)

    forward, step = report.windows["forward"], report.windows["step"]
    assert (forward.count, step.count) == (2, 1)
    assert forward.seconds == pytest.approx(0.106)
    assert forward.rails_j == {
        "watts": pytest.approx(area(1.007, 1.013) + area(2.4, 2.5)),
        "counter": pytest.approx(4 * 0.106),
    }
    assert step.joules == pytest.approx(area(0.513, 2.901) + 4 * (2.901 - 0.513))
    assert [(event.time_s, event.name) for event in report.events] == [(0.6, "half")]


def test_windows_do_not_wait_for_a_rail_that_is_lost_for_good() -> None:
    ledger = Ledger([WATTS, COUNTER])
    for step in range(10):
        window = ledger.open("w", step)
        ledger.close(window, step + 0.5)
        ledger.add(step + 1, {"watts": 1.0})
        ledger.lose(["counter"])
        ledger.settle()

    assert len(ledger._pending) == 0
    assert ledger.windows()["w"].rails_j["watts"] == pytest.approx(0.5 * 9)


def test_samples_are_handed_on() -> None:
    machine, samples = Machine(1.0), list[EnergySample]()
    machine.run(Played(machine, {WATTS: lambda _: 2.0, COUNTER: lambda now_s: 3 * now_s}), on_sample=samples.append)

    assert samples[0].watts == {"watts": 2.0, "counter": None}
    assert samples[10].time_s == pytest.approx(0.5)
    assert samples[10].watts["counter"] == pytest.approx(3.0)
    assert samples[10].joules == {"watts": pytest.approx(1.0), "counter": pytest.approx(1.5)}


@pytest.mark.parametrize(("sample_cpu_s", "interval_s"), [(0.0001, 0.05), (0.0002, 0.05), (0.001, 0.2), (0.005, 1.0)])
def test_a_costly_sample_is_taken_less_often(sample_cpu_s: float, interval_s: float) -> None:
    machine = Machine(100.0, sample_cpu_s)
    cost = machine.run(Played(machine, {WATTS: lambda _: 2.0})).cost

    assert cost.mean_interval_s == pytest.approx(interval_s, rel=0.05)
    assert cost.share <= 0.00525
    assert cost.interval_s == 0.05


def test_one_slow_sample_makes_no_gap() -> None:
    machine, samples = Machine(10.0, 0.0001), list[EnergySample]()
    machine.at = [
        (1.01, lambda: setattr(machine, "sample_cpu_s", 0.02)),
        (1.06, lambda: setattr(machine, "sample_cpu_s", 0.0001)),
    ]
    report = machine.run(Played(machine, {WATTS: lambda _: 2.0}), on_sample=samples.append)
    gaps = [after.time_s - before.time_s for before, after in pairwise(samples)]

    assert max(gaps) <= 0.151
    assert report.cost.share <= 0.01


def test_child_programs_count_as_cost() -> None:
    machine = Machine(1.0)

    class Spawning(Played):
        def read(self) -> Reading:
            return Reading({"watts": 1.0}, {}, child_cpu_s=0.0001)

    cost = machine.run(Spawning(machine, {WATTS: lambda _: 2.0})).cost

    assert cost.cpu_s == pytest.approx(0.0001 * cost.samples)


def test_a_sensor_that_hangs_does_not_hang_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.metering.sampler._JOIN_TIMEOUT_S", 0.01)
    entered, release = threading.Event(), threading.Event()

    def take() -> float:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            release.wait(10)
        return 0.0

    sampler = Sampler(take, 0.05, timing=Timing(wait=lambda _event, _seconds: False))
    sampler.start()
    assert entered.wait(10)
    sampler.stop()
    release.set()
    sampler._thread.join(10)

    assert sampler.failure is not None
    assert "hangs" in sampler.failure


def test_where_nothing_is_measured_the_same_calls_tell_nothing() -> None:
    meter: Meter[EnergyReport] = NullMeter()
    meter.start()
    with meter.window("forward"):
        meter.mark("x")
    report = meter.stop()

    assert report == EnergyReport() == meter.read()
    assert report.total_j is None
    assert report.mean_w is None


def test_a_meter_that_was_never_started_stops(tmp_path: Path) -> None:
    meter: Meter[EnergyReport] = EnergyMeter([open_ina3221(tx2(tmp_path))])

    assert meter.stop().total_j == 0.0


@pytest.mark.parametrize(
    ("label", "role"),
    [
        ("VDD_IN", "module"),
        ("POM_5V_GPU", "gpu"),
        ("VDD_CPU_GPU_CV", "cpu+gpu+cv"),
        ("VDDRQ", "ddr"),
        ("SYS5V", "other"),
        ("VDD_4V0_WIFI", "wifi"),
        ("odd label", "other"),
    ],
)
def test_roles_of_labels(label: str, role: str) -> None:
    assert role_of(label) == role


def nothing() -> Source:
    raise SensorError("not here")


def openers(found: Mapping[str, Source]) -> dict[str, Callable[[], Source]]:
    names = ("ina3221", "jtop", "pmic", "rapl", "battery", "nvml", "constant")
    return {name: partial(found.__getitem__, name) if name in found else nothing for name in names}


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"ina3221", "jtop", "battery", "nvml"}, {"ina3221"}),
        ({"jtop", "nvml", "constant"}, {"jtop"}),
        ({"rapl", "battery", "nvml", "constant"}, {"rapl", "nvml"}),
        ({"battery", "constant"}, {"battery"}),
        ({"nvml", "constant"}, {"nvml", "constant"}),
        ({"constant"}, {"constant"}),
        (set[str](), set[str]()),
    ],
)
def test_detection_counts_no_energy_twice(there: set[str], taken: set[str]) -> None:
    machine = Machine(1)
    sources = {name: Played(machine, {Rail(name, "cpu"): lambda _: 1.0}) for name in there}
    found = detect((5, 15), opener=openers(sources))

    assert {source.rails[0].name for source in found.sources} == taken
    assert {note.partition(":")[0] for note in found.notes} >= {"ina3221", "nvml", "constant"}
    for name in there - taken:
        assert any(note.startswith(f"{name}: not used: ") for note in found.notes)


def test_detection_takes_what_is_named() -> None:
    machine = Machine(1)
    sources = {name: Played(machine, {Rail(name, "cpu"): lambda _: 1.0}) for name in ("rapl", "constant")}

    assert [source.rails[0].name for source in detect(only=("constant",), opener=openers(sources)).sources] == [
        "constant"
    ]
    with pytest.raises(UsageError, match="--source jtop: not here"):
        detect(only=("rapl", "jtop"), opener=openers(sources))
    assert sources["rapl"].closed
    with pytest.raises(UsageError, match="--source x is unknown; there are ina3221"):
        detect(only=("x",), opener=openers(sources))


def test_detection_reads_a_tree_of_files(tmp_path: Path) -> None:
    found = detect(sys_root=tx2(tmp_path), only=("ina3221",))

    assert [note.partition(":")[0] for note in found.notes] == ["ina3221"]
    assert len(found.sources[0].rails) == 6


def test_marks_come_with_their_moment_or_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "marks"
    reader = MarkReader(path)
    assert reader.new() == []
    monkeypatch.setenv(VARIABLE, str(path))
    mark("epoch\n1")
    with path.open("a") as file:
        file.write("3 more\n@x y\nhalf a li")

    (name, at_s), *others = reader.new()
    assert (name, others) == ("epoch 1", [("3 more", None), ("@x y", None)])
    assert at_s is not None
    with path.open("a") as file:
        file.write("ne\n")
    assert reader.new() == [("half a line", None)]
    reader.close()
    monkeypatch.delenv(VARIABLE)
    mark("nobody listens")
