"""A measured profile as it is written down: a row for each block, and what was measured where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.profiling.profile import CodecCost, Floats, Profile

NAN = float("nan")


@dataclass(frozen=True)
class CodecRow:
    """A codec at one cut; NaN in a direction that it does not serve."""

    activation_bytes: float = NAN
    activation_encode_s: float = NAN
    activation_decode_s: float = NAN
    gradient_bytes: float = NAN
    gradient_encode_s: float = NAN
    gradient_decode_s: float = NAN


@dataclass(frozen=True)
class BlockRow:
    """A block, and the cut behind it. The first row is the input: cut 0, with no block before it."""

    cut: int
    """Index of the cut in `Graph.points`."""
    name: str
    """Of the cut."""
    unsafe: str
    """Why training must not be cut there; empty where it may."""
    forward_s: float
    """Forward pass without a graph."""
    replay_s: float
    """Forward pass with a graph."""
    backward_s: float
    optimizer_s: float
    parameter_bytes: int
    """Parameters and buffers."""
    optimizer_bytes: int
    """State of the optimizer."""
    saved_bytes: int
    """What the graph keeps for the backward pass, without parameters and buffers."""
    energy_mj: float
    """Of forward pass, replay, backward pass and update; NaN without a meter."""
    codecs: Mapping[str, CodecRow]
    """By spec; ``none`` is always among them."""


@dataclass(frozen=True)
class About:
    """What was measured, where, and how."""

    model: str
    digest: str
    batch_size: int
    device: str
    """cpu or cuda."""
    device_name: str
    threads: int
    rounds: int
    level: str
    optimizer: str
    meter: str
    """Name of the energy meter; empty without one."""
    environment: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """A profile of this program's own format."""

    about: About
    rows: tuple[BlockRow, ...]

    def profile(self, source: str = "") -> Profile:
        """The same by cut."""
        rows, about = self.rows, self.about
        forward, replay, backward, optimizer, parameters, states, saved, energy = (
            np.array([float(getattr(row, name)) for row in rows])
            for name in (
                "forward_s",
                "replay_s",
                "backward_s",
                "optimizer_s",
                "parameter_bytes",
                "optimizer_bytes",
                "saved_bytes",
                "energy_mj",
            )
        )
        names = list(dict.fromkeys(name for row in rows for name in row.codecs))
        gradients = {name: _codec(rows, name, "gradient") for name in names}
        # Without a gradient the head only computes forward: nothing of it is trained.
        trains = gradients["none"].nbytes > 0
        work = replay + backward + optimizer
        return Profile(
            source=source or f"{about.model} on {about.device_name}",
            model=about.model,
            device=about.device_name,
            digest=about.digest,
            batch_size=about.batch_size,
            cuts=tuple(row.cut for row in rows),
            names=tuple(row.name for row in rows),
            safe=np.array([not row.unsafe for row in rows]),
            head_s=np.cumsum(forward) + np.where(trains, np.cumsum(work), 0.0),
            head_kept_s=np.where(trains, np.cumsum(work), np.cumsum(forward)),
            tail_s=_behind(work),
            head_forward_s=np.cumsum(forward),
            tail_forward_s=_behind(forward),
            parameter_bytes=np.cumsum(parameters),
            optimizer_bytes=np.cumsum(states),
            saved_bytes=np.cumsum(saved),
            head_mj=np.cumsum(energy),
            tail_mj=_behind(energy),
            input_bytes=rows[0].codecs["none"].activation_bytes,
            activations={name: _codec(rows, name, "activation") for name in names},
            gradients=gradients,
        )


def _behind(values: Floats) -> Floats:
    """Sums of all behind each place; nothing is behind the last."""
    sums: Floats = np.append(np.cumsum(values[::-1])[::-1][1:], 0.0)
    return sums


def _codec(rows: Sequence[BlockRow], name: str, what: str) -> CodecCost:
    cells = [row.codecs.get(name, CodecRow()) for row in rows]
    nbytes, encode_s, decode_s = (
        np.array([getattr(cell, column) for cell in cells])
        for column in (f"{what}_bytes", f"{what}_encode_s", f"{what}_decode_s")
    )
    return CodecCost(nbytes, encode_s, decode_s)
