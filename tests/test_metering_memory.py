"""The memory meter: children, peaks that no sample saw, windows, CUDA's allocator, and what it costs."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from common.metering.gauges import Gauge, ResidentGauge, cuda_gauges, host_used, proportional, resident
from common.metering.memory import MemoryMeter, MemorySample
from common.metering.meter import Meter
from common.metering.peaks import Peaks
from common.metering.processes import ProcessTree
from common.metering.report import MemoryReport
from common.metering.sampler import Timing
from common.metering.traffic import Traffic, traffic

MIB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
ONCE = Timing(wait=lambda _event, _seconds: True)
"""Only the first and the last sample."""


class FakeGauge:
    name = "resident"

    def __init__(self, now: int) -> None:
        self.now = self.peak = now

    def grow(self, *levels: int) -> None:
        for self.now in levels:
            self.peak = max(self.peak, self.now)

    def look(self) -> tuple[int, int]:
        return self.now, self.peak

    def reset(self) -> None:
        self.peak = self.now


def nested(peaks: Peaks, gauge: FakeGauge) -> dict[str, int]:
    """A step that goes to 900, with a forward to 500 and a backward to 700 in it."""
    gauges: list[Gauge] = [gauge]
    step = peaks.open("step", 0, gauges)
    for name, time_s, level in (("forward", 1, 500), ("backward", 3, 700)):
        window = peaks.open(name, time_s, gauges)
        gauge.grow(level, 100)
        peaks.close(window, time_s + 1, gauges)
    gauge.grow(900, 50)
    peaks.close(step, 5, gauges)
    return {name: window.peak_bytes for name, window in peaks.windows().items()}


def test_with_resets_every_window_has_its_own_peak() -> None:
    peaks, gauge = Peaks(reset=True), FakeGauge(100)
    gauge.grow(1000, 100)  # before all windows

    assert nested(peaks, gauge) == {"step": 900, "forward": 500, "backward": 700}
    assert peaks.peaks["resident"] == 1000


def test_without_resets_a_rising_peak_is_the_windows_own() -> None:
    assert nested(Peaks(reset=False), FakeGauge(100)) == {"step": 900, "forward": 500, "backward": 700}


def test_without_resets_a_lower_window_has_what_was_seen() -> None:
    peaks, gauge = Peaks(reset=False), FakeGauge(100)
    gauge.grow(600, 100)

    assert nested(peaks, gauge) == {"step": 900, "forward": 100, "backward": 700}
    window = peaks.open("later", 6, [gauge])
    peaks.see("tree", 333)
    peaks.close(window, 7, [gauge])
    assert peaks.windows()["later"].peak_bytes == 333
    assert peaks.windows()["step"].seconds == 5


def test_windows_of_one_name_keep_their_largest_peak_and_count() -> None:
    peaks, gauge = Peaks(reset=True), FakeGauge(100)
    for level in (200, 400, 300):
        window = peaks.open("forward", 0, [gauge])
        gauge.grow(level, 100)
        peaks.close(window, 2, [gauge])

    window_memory = peaks.windows()["forward"]
    assert (window_memory.count, window_memory.seconds, window_memory.peak_bytes) == (3, 6, 400)


@linux
def test_the_kernels_numbers_are_those_of_psutil() -> None:
    now, peak = resident(os.getpid())

    assert now == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert peak >= now
    assert 0 < (proportional(os.getpid()) or 0) <= 1.05 * now
    assert proportional(2**22 + 1) is None
    assert resident(2**22 + 1) == (0, 0)
    memory = psutil.virtual_memory()
    assert host_used() == pytest.approx(memory.total - memory.available, rel=0.05)


@linux
def test_a_window_sees_a_peak_between_samples() -> None:
    meter: Meter[MemoryReport] = MemoryMeter(reset_peaks=True, timing=ONCE)
    meter.start()
    with meter.window("quiet"):
        pass
    with meter.window("forward"):
        block = bytearray(64 * MIB)
        del block
    report = meter.stop()

    quiet, forward = report.windows["quiet"].peak_bytes, report.windows["forward"].peak_bytes
    if not can_reset():
        pytest.skip("the kernel does not reset peaks here")
    assert forward - quiet == pytest.approx(64 * MIB, rel=0.1)
    assert report.peak_process_bytes >= forward
    assert report.peak_cuda_allocated_bytes is None
    assert report.host_bytes > report.peak_host_bytes > 0


def can_reset() -> bool:
    try:
        with open("/proc/self/clear_refs", "wb") as file:
            file.write(b"5")
    except OSError:
        return False
    return True


@linux
def test_a_gauge_that_cannot_be_reset_stays_as_it_is() -> None:
    gauge = ResidentGauge(2**22 + 1)
    gauge.reset()

    assert gauge.look() == (0, 0)


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    """A child that waits for its input to end."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        yield process


@linux
def test_the_tree_has_children_from_their_start_to_their_end(child: "subprocess.Popen[bytes]") -> None:
    tree = ProcessTree(os.getpid(), share=1e9, every_s=0)

    assert tree.pids()[0] == os.getpid()
    assert child.pid in tree.pids()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as other:
        assert other.pid in tree.pids()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE):  # a new process: the list is read again
        assert other.pid not in tree.pids()
    assert ProcessTree(child.pid).pids() == [child.pid]
    assert ProcessTree(2**22 + 1).pids() == []


@linux
def test_the_tree_is_listed_only_when_it_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    listings: list[int] = []

    def pids() -> list[int]:
        listings.append(1)
        return [os.getpid()]

    monkeypatch.setattr("common.metering.processes._BEFOREHAND_S", 0.0)
    monkeypatch.setattr("common.metering.processes._newest", lambda: None)
    monkeypatch.setattr(psutil, "pids", pids)
    now_s = [0.0]
    tree = ProcessTree(os.getpid(), share=1e-9, every_s=0, clock=lambda: now_s[0])
    for _ in range(50):
        tree.pids()

    assert len(listings) == 1
    now_s[0] = 1e12
    tree.pids()
    assert len(listings) == 2


@linux
def test_another_process_is_measured_with_its_children(child: "subprocess.Popen[bytes]") -> None:
    samples: list[MemorySample] = []
    meter = MemoryMeter(child.pid, on_sample=samples.append, timing=ONCE)
    meter.start()
    with meter.window("all"):
        meter.mark("now")
    report = meter.stop()

    assert report.peak_processes == 1
    assert report.peak_resident_bytes == max(sample.resident_bytes for sample in samples) > 0
    assert report.peak_process_bytes >= report.peak_resident_bytes
    assert report.peak_resident_bytes < resident(os.getpid())[0]  # not this process's
    assert [event.name for event in report.events] == ["now"]
    assert meter.stop() is report is meter.read()


def test_shared_pages_are_read_once_there_is_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, reads = [0.0], list[float]()

    def proportional(pid: int) -> int:
        reads.append(now_s[0])
        return 5

    monkeypatch.setattr("common.metering.memory.proportional", proportional)
    monkeypatch.setattr("common.metering.memory.resident", lambda pid: (1000 * MIB, 1000 * MIB))

    def wait(_event: threading.Event, seconds: float) -> bool:
        now_s[0] += seconds
        return now_s[0] > 20

    meter = MemoryMeter(timing=Timing(lambda: now_s[0], lambda: 0.0, wait))
    meter.start()
    meter._sampler._thread.join(5)
    report = meter.stop()

    # 1000 MiB are expected to take 10 ms, which 0.2 % of 5 s is.
    assert reads[0] == pytest.approx(5.0, abs=0.06)
    assert report.peak_proportional_bytes == 5 * report.peak_processes


class FakeCuda:
    """torch.cuda as far as it is asked."""

    def __init__(self, initialized: bool = True) -> None:
        self.stats = {"allocated_bytes.all.current": 300, "allocated_bytes.all.peak": 700}
        self.stats |= {"reserved_bytes.all.current": 800, "reserved_bytes.all.peak": 900}
        self.initialized = initialized

    def is_initialized(self) -> bool:
        return self.initialized

    def memory_stats(self) -> dict[str, int]:
        return self.stats

    def reset_peak_memory_stats(self) -> None:
        for kind in ("allocated", "reserved"):
            self.stats[f"{kind}_bytes.all.peak"] = self.stats[f"{kind}_bytes.all.current"]


def test_cuda_memory_is_told_once_torch_uses_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(initialized=False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert cuda_gauges() == []
    cuda.initialized = True
    samples: list[MemorySample] = []
    meter = MemoryMeter(reset_peaks=True, timing=ONCE, on_sample=samples.append)
    meter.start()
    with meter.window("forward"):
        cuda.stats["allocated_bytes.all.peak"] = 500
    report = meter.stop()

    assert samples[0].cuda_allocated_bytes == 300
    assert report.peak_cuda_allocated_bytes == 700  # before the window reset it
    assert report.peak_cuda_reserved_bytes == 900
    assert report.windows["forward"].cuda_allocated_bytes == 500
    assert report.windows["forward"].cuda_reserved_bytes == 800


def test_without_torch_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    assert cuda_gauges() == []


def test_traffic_leaves_the_loopback_out(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"lo": (900, 900), "eth0": (10, 20), "wlan0": (1, 2)}
    nics = {name: SimpleNamespace(bytes_sent=sent, bytes_recv=got) for name, (sent, got) in counts.items()}
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: nics)

    assert traffic().since(Traffic(1, 2)) == Traffic(10, 20)
