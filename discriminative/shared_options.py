"""What the command lines of all workloads share: where a program computes, and how far its edge may be ahead."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from common.codec.limit import DEFAULT_MB
from common.errors import UsageError
from common.records import check_run_dir

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where and how a program computes."""

    device: str = "cpu"
    """Device of this side's part: cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """Threads of an operation on the CPU; 0 leaves it to torch."""
    queue_limit: int = 5
    """How many items may wait between two threads of the pipeline."""
    codec_memory_mb: int = DEFAULT_MB
    """What codecs with a memory (delta, ef) may keep on this side, in MiB."""
    run_dir: Path = Path("runs")
    """Folder in which the run's own folder is made."""
    debug: bool = False
    """Show tracebacks and debug messages."""

    def prepare(self) -> None:
        """Check device and run folder, and set the number of threads."""
        try:
            if torch.empty(0, device=self.device).device.type not in DEVICES:
                raise RuntimeError(f"it is none of {', '.join(DEVICES)}")
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"--device {self.device} cannot be used: {reason}; --device cpu always can") from None
        if self.threads < 0 or self.queue_limit < 1:
            raise UsageError("--threads must be 0 or more, and --queue_limit 1 or more")
        if self.codec_memory_mb < 1:
            raise UsageError(f"--codec_memory_mb is {self.codec_memory_mb}; it must be 1 or more")
        check_run_dir(self.run_dir)
        if self.threads:
            torch.set_num_threads(self.threads)


@dataclass(frozen=True, kw_only=True)
class SlowableOptions(ComputeOptions):
    """How fast the part that is the edge's computes."""

    slowdown: float = 1.0
    """Emulate a device this many times slower: after each piece of work it rests, and counts the rest as work."""

    def prepare(self) -> None:
        """Check device, run folder and slowdown, and set the number of threads."""
        super().prepare()
        if not 1 <= self.slowdown <= 1000:
            raise UsageError(f"--slowdown is {self.slowdown}; it goes from 1 to 1000")


@dataclass(frozen=True, kw_only=True)
class StaleOptions:
    """How far the edge may be ahead of the gradients."""

    stale_it: int | Literal["auto"] = 4
    """Staleness bound K; 0 waits for each gradient, auto takes the least that keeps the slowest stage busy."""

    @property
    def staleness(self) -> int:
        """K to begin with; 0 where it is yet to be chosen."""
        return 0 if self.stale_it == "auto" else self.stale_it

    def check_staleness(self) -> None:
        """Raises UsageError where K is none."""
        if self.staleness < 0:
            raise UsageError(f"--stale_it is {self.stale_it}; it must be 0 or more")

    def check_unplanned(self) -> None:
        """Raises UsageError where something is to be chosen, and there is no link to choose it for."""
        if self.stale_it == "auto":
            raise UsageError("--stale_it auto measures a link, and here is none; give a number")


def check_growth(stale_it: int | str, epochs: tuple[int, ...]) -> None:
    """Raises UsageError where K cannot grow at the start of these epochs."""
    if stale_it == "auto" and epochs:
        raise UsageError("--K_schedule lets a fixed K grow; --stale_it auto chooses K by itself")
    if any(epoch < 1 for epoch in epochs):
        raise UsageError(f"--K_schedule has epoch {min(epochs)}; the first that K can grow at is 1")


def check_ports(**ports: int) -> None:
    """Raises UsageError where a port is none."""
    for name, port in ports.items():
        if not 0 <= port < 1 << 16:
            raise UsageError(f"--{name} is {port}; ports go from 0 to 65535")
