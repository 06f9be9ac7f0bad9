"""The paper's optimizer presets, by their published names, with learning rates as a function of the epoch.

Both sides know the epoch of every step, so their learning rates are in step without a word about them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from common.errors import UsageError
from common.naming import nearest
from common.wire.structs import Job


@dataclass(frozen=True)
class Preset:
    """An optimizer and its steps of the learning rate."""

    make: Callable[..., Optimizer]
    learning_rate: float
    milestones: tuple[int, ...] = ()
    """Epochs (from 0) at whose start the rate is multiplied by ``factor``."""
    factor: float = 1.0
    decay: float = 1.0
    """Factor of the rate from each epoch to the next, besides."""
    scale: float = 1.0
    """Of all rates."""
    momentum: bool = True
    """Whether steps have a direction that lasts, along which one can look ahead."""

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, as a part of the one that is asked for."""
        return self.scale * self.factor ** sum(epoch >= each for each in self.milestones) * self.decay**epoch


PRESETS = {
    "resnet": Preset(partial(SGD, momentum=0.9, weight_decay=1e-4, nesterov=True), 0.1, (81, 122), 0.1),
    "resnetpre": Preset(partial(RMSprop, weight_decay=1e-4), 5e-5, momentum=False),
    "mobilenet": Preset(partial(SGD, momentum=0.9, weight_decay=1e-5), 0.1, (100, 150, 180), 0.1),
    "tinyimagenet": Preset(partial(Adam, weight_decay=1e-3), 8e-5, (3, 20), 0.5),
    "imdb": Preset(Adam, 1e-3),
    "chairs": Preset(partial(Adam, eps=1e-6), 5e-4),
    "din": Preset(SGD, 0.1, decay=0.1, momentum=False),
}


def find_preset(name: str) -> Preset:
    """The preset of a published name; `resnet_pre` is the published README's spelling of `resnetpre`."""
    key = name.replace("_", "")
    if key not in PRESETS:
        raise UsageError(f"unknown --optim {name!r}; {nearest(name, list(PRESETS))}")
    return PRESETS[key]


def require_momentum(name: str, flag: str, way_out: str) -> None:
    """Raises UsageError where a preset's steps have no direction that lasts."""
    if not find_preset(name).momentum:
        raise UsageError(
            f"{flag} needs an optimizer with momentum, and --optim {name} has none; choose another, or {way_out}"
        )


def late_preset_of(job: Job) -> Preset:
    """The preset of a job's head, whose gradients are late where K > 0.

    Raises:
        UsageError: a momentum is asked for, and the optimizer has none.
    """
    preset = preset_of(job)
    return with_momentum(preset, job.late_momentum) if job.late_momentum and job.stale_it else preset


def with_momentum(preset: Preset, momentum: float) -> Preset:
    """A preset with another momentum; steps along a steady gradient stay as long as they were.

    Raises:
        UsageError: the optimizer has none.
    """
    if not preset.momentum:
        raise UsageError("an optimizer without momentum cannot have another one; choose another --optim")
    defaults = preset.make([torch.zeros(1)], lr=preset.learning_rate).defaults
    if "betas" in defaults:  # Adam's moments are means
        return replace(preset, make=partial(preset.make, betas=(momentum, defaults["betas"][1])))
    scale = (1 - momentum) / (1 - defaults["momentum"])  # SGD's momentum is a sum
    return replace(preset, make=partial(preset.make, momentum=momentum), scale=preset.scale * scale)


def preset_of(job: Job) -> Preset:
    """The preset of a job, with the job's own steps of the learning rate where it has some."""
    preset = find_preset(job.optim)
    return replace(preset, milestones=job.milestones, factor=job.gamma) if job.milestones else preset


SLOTS = frozenset({"step", "momentum_buffer", "exp_avg", "exp_avg_sq", "square_avg"})
"""What the presets' optimizers keep of a parameter."""


class Updater:
    """Applies gradients to the parameters of one part."""

    def __init__(self, preset: Preset, part: nn.Module, learning_rate: float = 0.0) -> None:
        self._preset = preset
        self._learning_rate = learning_rate or preset.learning_rate
        self._trainable = {name: each for name, each in part.named_parameters() if each.requires_grad}
        self.factor = 1.0
        """Of the learning rate, besides what the epoch makes of it."""
        parameters = list(self._trainable.values())
        self.optimizer = preset.make(parameters, lr=self._learning_rate) if parameters else None

    def apply(self, epoch: int) -> None:
        """One optimizer step at the epoch's learning rate; gradients are cleared behind it."""
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(epoch)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @contextmanager
    def ahead(self, steps: float, epoch: int) -> Iterator[None]:
        """Put the parameters where they are expected in so many steps, for the block; then back, bit for bit.

        Steps are counted as those at the epoch's rate: whoever lowers it by a `factor` asks for as much less.

        Expected is that each of the steps repeats the last one's direction: the momentum of SGD, the moments of Adam
        (Nesterov's look ahead, taken as far as a gradient is late; as SpecTrain and XPipe predict weights).

        Raises:
            UsageError: the optimizer has no momentum.
        """
        saved = [(parameter, parameter.detach().clone()) for parameter in self._trainable.values()]
        rate = self._learning_rate * self._preset.rate(epoch)
        with torch.no_grad():
            for parameter, _ in saved:
                direction = self._direction(parameter)
                if direction is not None:
                    parameter.sub_(direction, alpha=steps * rate)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in saved:
                    parameter.copy_(value)

    def _rate(self, epoch: int) -> float:
        return self._learning_rate * self._preset.rate(epoch) * self.factor

    def _direction(self, parameter: nn.Parameter) -> Tensor | None:
        """What a step takes of a parameter, by a rate of 1; None before the first step."""
        if isinstance(self.optimizer, RMSprop):
            raise UsageError("a look ahead needs an optimizer with momentum, and RMSprop has none here")
        kept = self.optimizer.state.get(parameter, {}) if self.optimizer else {}
        if (momentum := kept.get("momentum_buffer")) is not None:
            found: Tensor = momentum
            return found
        if "exp_avg" not in kept or self.optimizer is None:
            return None
        group, count = self.optimizer.param_groups[0], float(kept["step"])
        (first, second), epsilon = group["betas"], group["eps"]
        mean = kept["exp_avg"] / (1 - first**count)
        spread = (kept["exp_avg_sq"] / (1 - second**count)).sqrt_().add_(epsilon)
        direction: Tensor = mean / spread
        return direction

    def state(self) -> dict[tuple[str, str], Tensor]:
        """What the optimizer keeps, by (parameter, slot); the tensors are its own."""
        kept = self.optimizer.state if self.optimizer else {}
        return {
            (name, slot): value
            for name, each in self._trainable.items()
            for slot, value in kept.get(each, {}).items()
            if isinstance(value, Tensor)
        }

    def load_state(self, state: Mapping[tuple[str, str], Tensor]) -> None:
        """Go on from a `state`; parameters that are not in it begin anew.

        Raises:
            ValueError: a slot, or a shape, that no preset's optimizer has.
        """
        for (name, slot), value in state.items():
            parameter = self._trainable.get(name)
            if parameter is None or self.optimizer is None or slot not in SLOTS:
                raise ValueError(f"{slot!r} of {name!r} is nothing that this optimizer keeps")
            if value.shape != (() if slot == "step" else parameter.shape) or not value.is_floating_point():
                raise ValueError(f"{slot!r} of {name!r} came with shape {tuple(value.shape)}")
            device = "cpu" if slot == "step" else parameter.device
            self.optimizer.state[parameter][slot] = value.to(device)
