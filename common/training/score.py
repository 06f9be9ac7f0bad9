"""Loss and accuracy as means over samples."""

from dataclasses import dataclass

UNCOUNTED = -1
"""Number of right answers where a loss has none: of generated images, say."""


@dataclass
class Score:
    """Mean loss and accuracy over samples."""

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0

    def add(self, loss: float, correct: int, count: int) -> None:
        """Add a batch: its mean loss and its counts."""
        self.loss_sum += loss * count
        self.correct = UNCOUNTED if UNCOUNTED in (correct, self.correct) else self.correct + correct
        self.count += count

    @property
    def loss(self) -> float:
        """Mean over all samples."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float | None:
        """Right answers among all samples, 0 to 1; None where there are none to count."""
        return None if self.correct == UNCOUNTED else self.correct / self.count

    def __str__(self) -> str:
        accuracy = self.accuracy
        return f"loss {self.loss:.4f}" + ("" if accuracy is None else f", accuracy {100 * accuracy:.2f} %")
