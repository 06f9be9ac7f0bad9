"""What a run takes of its machine, stage by stage: energy where a meter exists, memory, bytes over the network."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, TypeAlias

from common.errors import UsageError
from common.metering.constant import parse_watts
from common.metering.detect import detect
from common.metering.energy import EnergyMeter
from common.metering.memory import MemoryMeter
from common.metering.meter import NullMeter
from common.metering.report import EnergyReport
from common.metering.traffic import Traffic, traffic

log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["auto", "none"]
Window: TypeAlias = contextlib.AbstractContextManager[None]

_MEMORY_INTERVAL_S = 3600.0
"""Next to never: the kernel keeps the process's peak, and stages look when they begin and end."""


class Metered:
    """Measures this process and its machine from beginning to end; a context manager.

    Args:
        energy: not started.
        memory: of this process, not started; None where stages are not told apart.
    """

    def __init__(self, energy: EnergyMeter | NullMeter, memory: MemoryMeter | None) -> None:
        self._energy, self._memory = energy, memory
        self._traffic: Traffic | None = None
        self._earlier_mj: float | None = 0.0
        """Of the run before this meter began."""
        self._before_mj: float | None = None

    def __enter__(self) -> "Metered":
        self._traffic = _traffic()
        self._energy.start()
        if self._memory is not None:
            self._memory.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._energy.stop()
        if self._memory is not None:
            self._memory.stop()

    def window(self, stage: str) -> Window:
        """Measure a stage apart, over all its windows; from any thread."""
        energy = self._energy.window(stage)
        return energy if self._memory is None else _both(energy, self._memory.window(stage))

    def energy_mj(self) -> float | None:
        """Of the run so far, as it has been sampled; None where it was not metered from its beginning on."""
        joules = self._energy.total_j()
        return None if joules is None or self._earlier_mj is None else self._earlier_mj + 1e3 * joules

    def rewind(self, energy_mj: float | None) -> None:
        """Go on from what a checkpoint of the run tells: what was spent since is left out, as its time is."""
        joules = self._energy.total_j()
        self._earlier_mj = None if joules is None or energy_mj is None else energy_mj - 1e3 * joules

    def restart(self) -> None:
        """The next `step_mj` counts from here."""
        self._before_mj = self.energy_mj()

    def step_mj(self) -> float | None:
        """Energy since the last call, or since `restart`."""
        now_mj, before_mj = self.energy_mj(), self._before_mj
        self._before_mj = now_mj
        return None if now_mj is None or before_mj is None else now_mj - before_mj

    def end(self, step_mj: float) -> dict[str, Any]:
        """End all measuring; what the run's summary tells of it, with the mean energy of its steps' rows."""
        facts: dict[str, Any] = {}
        energy = self._energy.stop()
        if self._memory is not None:
            memory = self._memory.stop()
            facts["stages_peak_memory_bytes"] = {stage: each.peak_bytes for stage, each in memory.windows.items()}
            cuda = {stage: each.cuda_allocated_bytes for stage, each in memory.windows.items()}
            if any(cuda.values()):
                facts["stages_peak_cuda_bytes"] = cuda
            facts["metering_share"] = energy.cost.share + memory.cost.share
        behind = _traffic()
        if self._traffic is not None and behind is not None:
            sent = behind.since(self._traffic)
            facts["network_sent_bytes"], facts["network_received_bytes"] = sent.sent_bytes, sent.received_bytes
        if energy.total_j is not None:
            facts["energy"] = _of_energy(energy)
            if (energy_mj := self.energy_mj()) is not None:
                facts |= {"energy_mj": energy_mj, "energy_per_step_mj": step_mj}
        return facts


@contextlib.contextmanager
def _both(one: Window, other: Window) -> Iterator[None]:
    with one, other:
        yield


def _of_energy(report: EnergyReport) -> dict[str, Any]:
    windows = report.windows.items()
    return {
        "sources": report.sources,
        "mean_w": report.mean_w,
        "peak_w": report.peak_w,
        "rails_mj": {rail.name: 1e3 * rail.joules for rail in report.rails if rail.in_total},
        "rails_beside_mj": {rail.name: 1e3 * rail.joules for rail in report.rails if not rail.in_total},
        "stages_mj": {stage: 1e3 * each.joules / max(each.count, 1) for stage, each in windows},
        "stages_s": {stage: each.seconds / max(each.count, 1) for stage, each in windows},
        "interval_ms": 1e3 * report.cost.mean_interval_s,
        "failure": report.failure,
        "faults": {rail.name: rail.fault for rail in report.rails if rail.fault},
    }


def check_metering(kind: Kind, watts: str, interval_ms: float) -> None:
    """Refuse what `metered` could not do.

    Raises:
        UsageError: watts or an interval that are none, or watts without a meter.
    """
    if watts:
        parse_watts(watts)
        if kind == "none":
            raise UsageError("--watts is a meter, and --meter none wants none; give one or the other")
    if not 0 < interval_ms < float("inf"):
        raise UsageError(f"--meter_interval_ms is {interval_ms:g}; it must be above 0")


def metered(kind: Kind, watts: str = "", interval_ms: float = 50.0) -> Metered:
    """What a command line asks for.

    Args:
        kind: auto takes the energy sensors that this machine has, and tells memory by stage; none does neither.
        watts: IDLE,BUSY of the machine, a model where it has no sensor; or nothing.
        interval_ms: between two samples of energy.
    """
    if kind == "none":
        return Metered(NullMeter(), None)
    found = detect(parse_watts(watts) if watts else None)
    for note in found.notes:
        log.debug("%s", note)
    energy: EnergyMeter | NullMeter = NullMeter()
    if found.sources:
        log.info("energy is told by %s", ", ".join(source.name for source in found.sources))
        energy = EnergyMeter(found.sources, interval_ms / 1e3)
    return Metered(energy, MemoryMeter(interval_s=_MEMORY_INTERVAL_S))


def energy_in_words(summary: Mapping[str, Any]) -> str:
    """A line about the energy of a run; nothing where it was not metered."""
    if "energy_mj" not in summary:
        return ""
    sources = ", ".join(summary["energy"]["sources"])
    return f"energy {summary['energy_mj'] / 1e3:.1f} J, {summary['energy_per_step_mj']:.1f} mJ a step ({sources})\n"


def _traffic() -> Traffic | None:
    try:
        return traffic()
    except OSError:  # a system that tells nobody
        return None
