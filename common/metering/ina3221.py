"""INA3221 power monitors of Jetson boards, read through /sys in both layouts that their kernels have."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.metering.rails import jetson_rail
from common.metering.source import SensorError
from common.metering.sysfs import SYS, RailFiles, read_number, text_or

# Chips at these addresses stand on the carrier board (TX1, TX2), unlike those of the module, 0x40 and 0x41.
_CARRIER = {"42", "43"}
# The TX2 by address and channel, for kernels that give no rail_name (NVIDIA, L4T developer guide).
_TX2 = {
    "40": ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"),
    "41": ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"),
    "42": ("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
    "43": ("VDD_3V3_IO_SLP", "VDD_1V8_IO", "VDD_3V3_SYS_M2"),
}
_NOT_CONNECTED = "NC"


@dataclass(frozen=True)
class Channel:
    """One of a chip's three inputs."""

    label: str
    address: str
    """Last two hex digits of the chip's I2C address."""
    watts: Callable[[], float]


def open_ina3221(sys_root: Path = SYS, *, carrier: bool = False) -> RailFiles:
    """The channels of all chips: kernel 4.9's ``iio`` files (TX1, TX2, Nano, Xavier), later kernels' ``hwmon``.

    Args:
        sys_root: /sys, or a test's.
        carrier: also the rails of the carrier board (TX1, TX2), which the total leaves out; each rail costs time.

    Raises:
        SensorError: there are none, or they cannot be read.
    """
    found = [*_iio_channels(sys_root), *_hwmon_channels(sys_root)]
    channels = [channel for channel in found if carrier or channel.address not in _CARRIER]
    if not channels:
        raise SensorError(f"no INA3221 under {sys_root}/bus/i2c/drivers/ina3221* or {sys_root}/class/hwmon")
    named = _named(channels)
    labels = {channel.label for channel in channels}
    readers = {jetson_rail(name, labels, carrier=each.address in _CARRIER): each.watts for name, each in named.items()}
    source = RailFiles("INA3221 (sysfs)", readers)
    _check(source)
    return source


def _named(channels: list[Channel]) -> dict[str, Channel]:
    """By a name of its own: two chips with one label stay two rails."""
    count = Counter(channel.label for channel in channels)
    named: dict[str, Channel] = {}
    for each in channels:
        name = each.label if count[each.label] == 1 else f"{each.label}@{each.address}"
        while name in named:
            name += "'"
        named[name] = each
    return named


def _check(source: RailFiles) -> None:
    reading = source.read()
    if not reading.values:
        raise SensorError(f"no rail of the INA3221 can be read: {'; '.join(sorted(set(reading.faults.values())))}")


def _iio_channels(sys_root: Path) -> Iterator[Channel]:
    # The folder is iio:device0 and so on, iio_device on the first kernels.
    for folder in sorted(sys_root.glob("bus/i2c/drivers/ina3221x/*-00*/iio*device*")):
        address = folder.parent.name[-2:]
        for number in range(3):
            power = folder / f"in_power{number}_input"
            defaults = _TX2.get(address, ())
            default = defaults[number] if number < len(defaults) else f"ina3221-{address}-{number}"
            label = text_or(folder / f"rail_name_{number}", default)
            if power.exists() and label != _NOT_CONNECTED:
                yield Channel(label, address, partial(_milliwatts, str(power)))


def _hwmon_channels(sys_root: Path) -> Iterator[Channel]:
    for folder in _hwmon_folders(sys_root):
        address = _address(folder)
        for number in (1, 2, 3):  # 4 to 7 are shunt voltages and sums
            volts, amps = folder / f"in{number}_input", folder / f"curr{number}_input"
            label = text_or(folder / f"in{number}_label", f"ina3221-{address}-{number}")
            enabled = text_or(folder / f"in{number}_enable", "1") != "0"
            if volts.exists() and amps.exists() and enabled and label != _NOT_CONNECTED:
                yield Channel(label, address, partial(_millivolts_milliamperes, str(volts), str(amps)))


def _hwmon_folders(sys_root: Path) -> list[Path]:
    """By the driver's folder and by class; the same device is taken once."""
    by_driver = sys_root.glob("bus/i2c/drivers/ina3221*/*-00*/hwmon/hwmon*")
    by_class = (path for path in sys_root.glob("class/hwmon/hwmon*") if text_or(path / "name", "") == "ina3221")
    return sorted({path.resolve() for path in (*by_driver, *by_class)})


def _address(folder: Path) -> str:
    """From .../1-0040/hwmon/hwmon3; a folder without an I2C device above it gives its own name."""
    device = folder.parent.parent.name
    return device[-2:] if "-00" in device else folder.name


def _milliwatts(path: str) -> float:
    return read_number(path) / 1e3


def _millivolts_milliamperes(volts: str, amps: str) -> float:
    return read_number(volts) * read_number(amps) / 1e6
