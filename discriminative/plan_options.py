"""Flags of the decision engine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UsageError
from common.planning.losses import LossTable, load_losses
from common.planning.problem import Limits, Objective, Power
from common.planning.quantities import size_bytes

Strategies = Literal["fixed", "ours", "jointdnn", "neurosurgeon", "edge", "cloud"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the decision engine may choose from, and by what."""

    plan_codecs_up: tuple[str, ...] = ()
    """Codecs to choose from of what goes up; default none and that of --compress_up."""
    plan_codecs_down: tuple[str, ...] = ()
    """Codecs to choose from of what comes down; default none and that of --compress_down."""
    objective: Literal["time", "energy", "weighted"] = "time"
    """What is to be small: step time, energy of the edge, or both by --energy_weight."""
    energy_weight: float = 0.5
    """Of --objective weighted: 0 is time alone, 1 energy alone."""
    power: tuple[float, float, float, float] | None = None
    """W of the edge: computing, idle, and in addition while it sends and receives; for energy without a sensor."""
    edge_memory: str = ""
    """The most that the tensors of the edge may take, such as 500MiB."""
    loss_table: Path | None = None
    """CSV of what codecs lose in accuracy: codec_up, codec_down, loss_points."""
    max_loss: float | None = None
    """Points of accuracy that codecs may lose by --loss_table."""
    max_stale_it: int = 16
    """The largest K that may be chosen."""
    replan_s: float = 5.0
    """Seconds between two looks at the plan of `ours`; 0 decides once."""

    @property
    def limits(self) -> Limits:
        """What a plan must not exceed."""
        memory = size_bytes("edge_memory", self.edge_memory) if self.edge_memory else None
        return Limits(memory, self.max_loss)

    @property
    def aim(self) -> Objective:
        """What is to be small."""
        return Objective(self.objective, self.energy_weight)

    @property
    def losses(self) -> LossTable:
        """What codecs lose, as far as it was measured."""
        return LossTable() if self.loss_table is None else load_losses(self.loss_table)

    @property
    def edge_power(self) -> Power | None:
        """Power of the edge, where it was given."""
        return None if self.power is None else Power(*self.power)

    def check_plan(self) -> None:
        """Raises UsageError where values make no sense."""
        if not 0 <= self.energy_weight <= 1:
            raise UsageError(f"--energy_weight is {self.energy_weight}; it goes from 0 (time) to 1 (energy)")
        if self.max_stale_it < 1:
            raise UsageError(f"--max_stale_it is {self.max_stale_it}; it must be 1 or more")
        if self.replan_s < 0:
            raise UsageError(f"--replan_s is {self.replan_s}; it must be 0 or more")
        if (self.max_loss is None) != (self.loss_table is None):
            raise UsageError("--max_loss and --loss_table go together: points, and the table that knows them")
        if self.power is not None and min(self.power) < 0:
            raise UsageError(f"--power is {self.power}; watts are 0 or more")
        _ = self.limits, self.losses


@dataclass(frozen=True, kw_only=True)
class PlanOptions(EngineOptions):
    """How cut, codecs and K are chosen."""

    plan: Strategies = "fixed"
    """fixed: as the other flags say. ours: cut, codecs and K from profiles of both machines and the live network, anew
    while it changes. jointdnn, neurosurgeon, edge, cloud: what it is compared with, chosen once."""
