"""Random numbers of a step: the same on both machines, in the replay, and in unsplit training.

Before each step's forward pass the generator is seeded from (seed, step). The head's draws come first; where it
drew any, its state travels to the tail, which goes on from there, so a split forward pass draws exactly what the
unsplit one draws. The replay of a step seeds again and gets the same dropout masks.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from common.errors import ProtocolError

one_at_a_time = threading.Lock()
"""Held by each forward pass, and while a model is built and traced.

torch's generators belong to the process, and torch.fx replaces `nn.Module.__call__` for all threads while it traces:
without the lock, the sessions of a server (or head and tail in one process) would draw each other's random numbers,
and run into each other's tracer.
"""


class StepStream:
    """The random numbers of one forward pass."""

    drawn: Tensor | None = None
    """State behind the pass (bytes); None where nothing was drawn."""


def step_seed(seed: int, step: int) -> int:
    """One seed for each (seed, step), far apart (splitmix64's finaliser)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + (step + 1) * 0xD1B54A32D192ED03) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@contextmanager
def step_stream(seed: int, step: int, device: torch.device, state: Tensor | None = None) -> Iterator[StepStream]:
    """Run a forward pass on the random numbers of its step, and leave the process's own state as it was.

    Args:
        seed: the run's seed.
        step: the training step.
        device: where the pass runs; its generator is the one that is set.
        state: continue from here (bytes of the same kind of generator) instead of from the seed.
    """
    stream = StepStream()
    with one_at_a_time:
        outer = _get_state(device)
        try:
            _seed(device, step_seed(seed, step))
            fresh = _get_state(device)
            if state is not None and state.shape == fresh.shape:
                fresh = state
                _continue_from(device, state)
            yield stream
            behind = _get_state(device)
            if not torch.equal(behind, fresh):
                stream.drawn = behind
        finally:
            _set_state(device, outer)


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _seed(device: torch.device, seed: int) -> None:
    _generator(device).manual_seed(seed)


def _get_state(device: torch.device) -> Tensor:
    return _generator(device).get_state()


def _continue_from(device: torch.device, state: Tensor) -> None:
    try:
        _set_state(device, state)
    except RuntimeError as error:
        raise ProtocolError(f"the peer sent a random state that is none: {error}") from None


def _set_state(device: torch.device, state: Tensor) -> None:
    _generator(device).set_state(state)
