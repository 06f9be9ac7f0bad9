"""Finds the energy sensors of this machine, takes those that do not count the same energy twice, and says why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UsageError
from common.metering.battery import open_battery
from common.metering.constant import ConstantPower
from common.metering.ina3221 import open_ina3221
from common.metering.jetson import Jtop
from common.metering.nvml import Nvml
from common.metering.pmic import Pmic
from common.metering.rapl import open_rapl
from common.metering.source import SensorError, Source
from common.metering.sysfs import SYS

BOARD = ("ina3221", "jtop", "pmic", "rapl", "battery")
"""In this order: the first that is there measures the board. INA3221 directly goes before jtop, whose service reads
the same chips, but ten times less often."""
JETSON = {"ina3221", "jtop"}
NAMES = (*BOARD, "nvml", "constant")


@dataclass(frozen=True)
class Detected:
    """What measures this machine, and what was looked for."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...]
    """A line for each sensor: what it has, or why it is not used."""


def openers(watts: tuple[float, float] | None, sys_root: Path) -> dict[str, Callable[[], Source]]:
    """How each kind of source is opened."""

    def constant() -> Source:
        if watts is None:
            raise SensorError("no watts were given: --watts IDLE,BUSY")
        return ConstantPower(*watts)

    return {
        "ina3221": lambda: open_ina3221(sys_root),
        "jtop": Jtop,
        "pmic": Pmic,
        "rapl": lambda: open_rapl(sys_root),
        "battery": lambda: open_battery(sys_root),
        "nvml": Nvml,
        "constant": constant,
    }


def detect(
    watts: tuple[float, float] | None = None,
    only: Sequence[str] = (),
    *,
    sys_root: Path = SYS,
    opener: dict[str, Callable[[], Source]] | None = None,
) -> Detected:
    """Open what there is: one source for the board, and NVML beside it unless the board is a Jetson.

    Args:
        watts: idle and busy, for the model that stands in where the board has no sensor.
        only: names of sources; each must be there.
        sys_root: /sys, or a test's.
        opener: by name; for tests.

    Raises:
        UsageError: an unknown name, or a source of ``only`` that is not there.
    """
    opener = opener or openers(watts, sys_root)
    search = _Search(opener)
    if only:
        for name in only:
            search.demand(name)
        return search.result()
    board = next((name for name in BOARD if search.tries(name)), None)
    search.skip(BOARD[BOARD.index(board) + 1 :] if board else (), f"{board} measures this board")
    if board in JETSON:
        search.skip(("nvml",), f"{board} measures the GPU")
    else:
        search.tries("nvml")
    if board is None:
        search.tries("constant")
    elif watts is not None:
        search.skip(("constant",), f"{board} measures this board; --source constant takes the model all the same")
    return search.result()


class _Search:
    def __init__(self, opener: dict[str, Callable[[], Source]]) -> None:
        self._opener = opener
        self._sources: list[Source] = []
        self._notes: list[str] = []

    def tries(self, name: str) -> bool:
        """Open a source; whether it is there."""
        try:
            source = self._opener[name]()
        except SensorError as error:
            self._notes.append(f"{name}: no: {error}")
            return False
        self._sources.append(source)
        self._notes.append(f"{name}: {source.name}: {', '.join(rail.name for rail in source.rails)}")
        return True

    def demand(self, name: str) -> None:
        if name not in self._opener:
            raise UsageError(f"--source {name} is unknown; there are {', '.join(NAMES)}")
        if not self.tries(name):
            self.close()
            raise UsageError(f"--source {self._notes[-1].replace(': no: ', ': ', 1)}")

    def skip(self, names: Sequence[str], why: str) -> None:
        self._notes += [f"{name}: not used: {why}" for name in names]

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def result(self) -> Detected:
        return Detected(tuple(self._sources), tuple(self._notes))
