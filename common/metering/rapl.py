"""RAPL: energy counters of x86 processors (Intel, AMD) through /sys/class/powercap, which wrap around."""

from functools import partial
from pathlib import Path

from common.metering.rails import Rail
from common.metering.source import SensorError
from common.metering.sysfs import SYS, RailFiles, read_number, text_or

_PARTS = {
    # name of a zone: role, whether the total counts it
    "core": ("cpu", False),
    "uncore": ("gpu", False),
    "dram": ("ddr", True),
    # The whole platform, where the maker has calibrated it; it holds the packages, and on others it is nonsense.
    "psys": ("platform", False),
}


def open_rapl(sys_root: Path = SYS) -> RailFiles:
    """The counters of all packages and their parts.

    Raises:
        SensorError: there are none, or this user may not read them.
    """
    root = sys_root / "class/powercap"
    # intel-rapl-mmio:* is a second door to package 0.
    zones = sorted(path for path in root.glob("intel-rapl:*") if (path / "energy_uj").exists())
    if not zones:
        raise SensorError(f"no {root}/intel-rapl:*; the processor has no RAPL, or a virtual machine hides it")
    source = RailFiles(
        "RAPL (powercap)", {_rail(zone, zones): partial(_joules, str(zone / "energy_uj")) for zone in zones}
    )
    reading = source.read()
    if not reading.values:
        why = next(iter(reading.faults.values()))
        hint = (
            "; only root may read it. Until the next boot, all may after: "
            f"sudo chmod a+r {root}/intel-rapl:*/energy_uj {root}/intel-rapl:*/max_energy_range_uj"
        )
        raise SensorError(why + (hint if "ermission denied" in why else ""))
    return source


def _rail(zone: Path, zones: list[Path]) -> Rail:
    """A package is ``package-0``; its parts are ``package-0/core`` and so on."""
    name = text_or(zone / "name", zone.name)
    parent = zone.with_name(zone.name.rpartition(":")[0])
    role, in_total = _PARTS.get(name, ("cpu" if name.startswith("package") else "other", parent not in zones))
    if parent in zones:
        name = f"{text_or(parent / 'name', parent.name)}/{name}"
    return Rail(name, role, in_total, counter=True, range_j=_range_j(zone))


def _range_j(zone: Path) -> float | None:
    try:
        return _joules(str(zone / "max_energy_range_uj")) or None
    except (OSError, SensorError):
        return None  # then the sample in which it wraps counts as nothing


def _joules(path: str) -> float:
    return read_number(path) / 1e6
