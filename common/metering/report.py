"""What meters tell at the end: energy of each rail and window, memory peaks, and what the metering itself cost."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cost:
    """What a meter took from the machine that it measured."""

    samples: int = 0
    cpu_s: float = 0.0
    """CPU time of the sampling thread and of programs that it started."""
    elapsed_s: float = 0.0
    """Since the meter's start."""
    interval_s: float = 0.0
    """Asked for; a reading that costs too much is taken less often."""

    @property
    def share(self) -> float:
        """CPU time over elapsed time: share of one core."""
        return self.cpu_s / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def mean_interval_s(self) -> float:
        """Time between two samples as it was."""
        return self.elapsed_s / (self.samples - 1) if self.samples > 1 else 0.0

    def __str__(self) -> str:
        return (
            f"{self.samples} samples, one each {1e3 * self.mean_interval_s:.1f} ms "
            f"(asked: {1e3 * self.interval_s:g} ms), metering took {100 * self.share:.2f} % of a core"
        )


@dataclass(frozen=True)
class RailEnergy:
    """Energy of a rail."""

    name: str
    role: str
    in_total: bool
    joules: float
    measured_s: float
    """Time that the joules are of; less than the elapsed time where the rail was lost for a while."""
    peak_w: float
    fault: str | None = None
    """Since when and why it could not be read, if it ever could not."""

    @property
    def mean_w(self) -> float:
        """Over the measured time."""
        return self.joules / self.measured_s if self.measured_s > 0 else 0.0


@dataclass(frozen=True)
class WindowEnergy:
    """Energy of all windows of one name; what runs beside them is in it, as rails do not know who draws."""

    count: int
    seconds: float
    joules: float
    """Of the rails in the total."""
    rails_j: dict[str, float]


@dataclass(frozen=True)
class Event:
    """A named moment."""

    time_s: float
    name: str


@dataclass(frozen=True)
class EnergyReport:
    """Energy since a meter's start; of a machine without meter, nothing."""

    sources: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    total_j: float | None = None
    """Sum over the rails in the total; None: nothing is measured here."""
    peak_w: float | None = None
    """Largest sum over the rails in the total."""
    rails: tuple[RailEnergy, ...] = ()
    windows: dict[str, WindowEnergy] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    cost: Cost = Cost()
    failure: str | None = None
    """Why sampling ended before its time."""

    @property
    def mean_w(self) -> float | None:
        """Of the rails in the total, each over the time that it was measured."""
        return None if self.total_j is None else sum(rail.mean_w for rail in self.rails if rail.in_total)


@dataclass(frozen=True)
class WindowMemory:
    """Memory of all windows of one name."""

    count: int
    seconds: float
    peak_bytes: int
    """Largest resident memory in any of them: of this process where it is measured itself, with children as sampled."""
    cuda_allocated_bytes: int | None = None
    cuda_reserved_bytes: int | None = None


@dataclass(frozen=True)
class MemoryReport:
    """Memory since a meter's start."""

    elapsed_s: float
    peak_resident_bytes: int
    """Of the process and its children together, as sampled; pages that they share are counted for each."""
    peak_resident_s: float
    """When that was."""
    peak_processes: int
    """How many there were then."""
    peak_process_bytes: int
    """Largest peak of any single process, as the kernel keeps it: no sample misses it."""
    peak_proportional_bytes: int | None
    """As sampled; shared pages are divided among those that share them."""
    peak_host_bytes: int
    """Memory in use on the whole machine."""
    host_bytes: int
    """Memory of the whole machine."""
    peak_cuda_allocated_bytes: int | None = None
    """Of this process in torch's allocator; None: no CUDA here, or another process is measured."""
    peak_cuda_reserved_bytes: int | None = None
    windows: dict[str, WindowMemory] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    cost: Cost = Cost()
    failure: str | None = None
