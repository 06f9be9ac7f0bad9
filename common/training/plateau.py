"""A learning rate that falls where the held-out loss does so no more (torch's `ReduceLROnPlateau`), as a pure function.

The loss is known at the edge alone. What follows from it travels with the gradients that it is about
(`Gradients.rate`), so both sides' rates are in step, also of a run that goes on from a checkpoint.
"""

import msgspec

_THRESHOLD = 1e-4
"""Better is: lower by more than this part."""


class Plateau(msgspec.Struct, frozen=True):
    """What the losses so far make of the learning rate."""

    by: float = 0.5
    """The rate is multiplied by this, 0 to 1, ..."""
    patience: int = 2
    """... behind more than this many epochs that are not better than the best one."""
    factor: float = 1.0
    """Of the first learning rate, now."""
    best: float | None = None
    worse: int = 0
    """Epochs since then, or since the last fall."""

    def after(self, loss: float) -> "Plateau":
        """What one more epoch's loss makes of it."""
        if self.best is None or loss < self.best * (1 - _THRESHOLD):
            return msgspec.structs.replace(self, best=loss, worse=0)
        if self.worse < self.patience:
            return msgspec.structs.replace(self, worse=self.worse + 1)
        return msgspec.structs.replace(self, factor=self.factor * self.by, worse=0)
