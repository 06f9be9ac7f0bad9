"""What a device is called in a profile."""

import platform
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")


def device_name(device: torch.device | str) -> str:
    """Name of a GPU; of a CPU that of its board (Jetson, Raspberry Pi) or of the processor."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return _first_line(_BOARD).strip("\0 \n") or _processor() or platform.machine()


def _processor() -> str:
    lines = _text(_CPU_INFO).splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor()


def _first_line(path: Path) -> str:
    return _text(path).partition("\n")[0]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
