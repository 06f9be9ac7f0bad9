"""A battery that is being discharged, through /sys/class/power_supply: the power of the whole machine."""

from functools import partial
from pathlib import Path

from common.metering.rails import Rail
from common.metering.source import SensorError
from common.metering.sysfs import SYS, RailFiles, read_number, read_text, text_or


def open_battery(sys_root: Path = SYS) -> RailFiles:
    """All batteries of this machine.

    Raises:
        SensorError: there is none, it is not being discharged, or it does not say its power.
    """
    root = sys_root / "class/power_supply"
    # Batteries of mice and headsets have the scope Device.
    found = [
        path
        for path in sorted(root.glob("*"))
        if text_or(path / "type", "") == "Battery" and text_or(path / "scope", "System") != "Device"
    ]
    if not found:
        raise SensorError(f"no battery under {root}")
    source = RailFiles("battery", {Rail(path.name, "machine"): partial(_watts, path) for path in found})
    reading = source.read()
    if not reading.values:
        raise SensorError("; ".join(reading.faults.values()))
    return source


def _watts(path: Path) -> float:
    status = read_text(path / "status")
    if status != "Discharging":
        raise SensorError(f"{path.name} is {status.lower()}; its power is this machine's only while it is discharging")
    if (path / "power_now").exists():
        return abs(read_number(path / "power_now")) / 1e6  # some drivers count discharge as negative
    return abs(read_number(path / "current_now")) / 1e6 * (read_number(path / "voltage_now") / 1e6)
