"""Gauges of memory that keep their own peak: the kernel's of a process, and torch's allocator of CUDA memory."""

import os
import re
import resource
import sys
from typing import Any, Protocol

import psutil

_HIGH_WATER = re.compile(rb"VmHWM:\s+(\d+) kB")
_HOST = (rb"MemTotal", rb"MemAvailable")
_RESIDENT = re.compile(rb"VmRSS:\s+(\d+) kB")


class Gauge(Protocol):
    """Memory of one kind in bytes."""

    name: str

    def look(self) -> tuple[int, int]:
        """Now, and the peak since the process began or since ``reset``."""

    def reset(self) -> None:
        """Let the peak begin anew from now."""


class ResidentGauge:
    """Resident memory of a process.

    Resetting also lowers what ``getrusage`` and ``/usr/bin/time`` later say of the process: whoever resets keeps the
    peaks himself.
    """

    name = "resident"

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def look(self) -> tuple[int, int]:
        return resident(self._pid)

    def reset(self) -> None:
        try:
            with open(f"/proc/{self._pid}/clear_refs", "wb") as file:
                file.write(b"5")  # proc(5): resets the high-water mark, and nothing else
        except OSError:
            return  # then peaks are those since the process began, and the caller's comparison still holds


class CudaGauge:
    """What torch has allocated for tensors, or reserved from the driver, on the current GPU."""

    def __init__(self, kind: str) -> None:
        self.name = f"cuda_{kind}"
        self._kind = kind

    def look(self) -> tuple[int, int]:
        stats = _cuda().memory_stats()  # one call for both; each call walks through all of torch's statistics
        key = f"{self._kind}_bytes.all"
        return int(stats.get(f"{key}.current", 0)), int(stats.get(f"{key}.peak", 0))

    def reset(self) -> None:
        _cuda().reset_peak_memory_stats()


def cuda_gauges() -> list[Gauge]:
    """Those of this process, once it uses CUDA; torch is never imported for this."""
    cuda = _cuda()
    if cuda is None or not cuda.is_initialized():
        return []
    return [CudaGauge("allocated"), CudaGauge("reserved")]


def resident(pid: int) -> tuple[int, int]:
    """Resident memory of a process in bytes and its peak; 0 of one that has ended.

    Raises:
        psutil.NoSuchProcess: there is none, on systems without /proc.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            text = file.read()
    except OSError:
        if os.path.exists("/proc/self/status"):
            return 0, 0
        now = int(psutil.Process(pid).memory_info().rss)
        return now, now
    now_kb, peak_kb = _RESIDENT.search(text), _HIGH_WATER.search(text)
    return (1024 * int(now_kb[1]) if now_kb else 0), (1024 * int(peak_kb[1]) if peak_kb else 0)


def own_peak() -> int:
    """Largest resident memory of this process since it began, in bytes."""
    if os.path.exists("/proc/self/status"):
        return resident(os.getpid())[1]  # getrusage would begin with the peak of whoever started this process
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def proportional(pid: int) -> int | None:
    """Memory of a process with shared pages divided among those that share them; None where it is not told."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            found = re.search(rb"^Pss:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def host_used() -> int:
    """Memory of the whole machine that is in use: what could not be had without swapping."""
    try:  # psutil parses all of the file: five times the work
        with open("/proc/meminfo", "rb") as file:
            text = file.read(256)
        total, available = (int(re.search(name + rb":\s+(\d+) kB", text)[1]) for name in _HOST)  # type: ignore[index]
    except (OSError, TypeError):
        memory = psutil.virtual_memory()
        return int(memory.total - memory.available)
    return 1024 * (total - available)


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return getattr(torch, "cuda", None)
