"""Loss and accuracy as means over samples."""

from dataclasses import dataclass


@dataclass
class Score:
    """Mean loss and accuracy over samples."""

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0

    def add(self, loss: float, correct: int, count: int) -> None:
        """Add a batch: its mean loss and its counts."""
        self.loss_sum += loss * count
        self.correct += correct
        self.count += count

    @property
    def loss(self) -> float:
        """Mean over all samples."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        """Right answers among all samples, 0 to 1."""
        return self.correct / self.count
