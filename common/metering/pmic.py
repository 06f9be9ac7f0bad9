"""The power chip of the Raspberry Pi 5, through ``vcgencmd pmic_read_adc``: current and voltage of each rail."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable

from common.metering.rails import Rail, role_of
from common.metering.source import Reading, SensorError

COMMAND = ("vcgencmd", "pmic_read_adc")
_TIMEOUT_S = 2.0
# "  VDD_CORE_A current(7)=1.12518000A" and "  VDD_CORE_V volt(15)=0.89316150V"; the numbers are no pairs, names are.
_LINE = re.compile(r"^\s*(\w+)_([AV])\s+\w+\(\d+\)=(-?[\d.]+)[AV]\s*$", re.MULTILINE)
# Regulators behind 3V3_SYS, whose current is in that rail's.
_INSIDE_OTHERS = {"3V3_DAC", "3V3_ADC"}


class Pmic:
    """Rails with both a current and a voltage; the 5 V input has no current, so losses of the chip are in none.

    Each reading starts a program, which takes milliseconds: the meter then samples less often to keep its cost.
    """

    name = "Raspberry Pi PMIC (vcgencmd)"

    def __init__(self, run: Callable[[], str] | None = None) -> None:
        self._run = run or _run
        watts = parse(self._run())
        if not watts:
            raise SensorError("vcgencmd pmic_read_adc shows no currents; only the Raspberry Pi 5 measures them")
        self.rails = tuple(Rail(name, role_of(name), name not in _INSIDE_OTHERS) for name in watts)

    def read(self) -> Reading:
        before_s = time.perf_counter()
        watts = parse(self._run())
        lost = {rail.name: "not in the output of vcgencmd" for rail in self.rails if rail.name not in watts}
        known = {rail.name: watts[rail.name] for rail in self.rails if rail.name in watts}
        # At most: the CPU time of another program is known only once all children have ended.
        return Reading(known, lost, child_cpu_s=time.perf_counter() - before_s)

    def close(self) -> None: ...


def parse(output: str) -> dict[str, float]:
    """Watts by rail, of all rails that show both a current and a voltage."""
    amps, volts = dict[str, float](), dict[str, float]()
    for name, unit, number in _LINE.findall(output):
        (amps if unit == "A" else volts)[name] = float(number)
    return {name: amps[name] * volts[name] for name in amps if name in volts}


def _run() -> str:
    if shutil.which(COMMAND[0]) is None:
        raise SensorError("no vcgencmd; this is no Raspberry Pi, or its package raspi-utils is missing")
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SensorError(f"vcgencmd pmic_read_adc failed: {error}") from None
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split())
        raise SensorError(f"vcgencmd pmic_read_adc failed with code {done.returncode}: {told}; be in the group video")
    return done.stdout
