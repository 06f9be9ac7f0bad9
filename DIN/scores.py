"""The objective of who has the labels, which remembers the scores of what is held out."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from DIN.metrics import measured

Numbers = npt.NDArray[np.int64]


def objective(outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy of logits (B, 2), and right answers.

    It is the published one (binary cross-entropy of the softmax's second chance), without its overflow.
    """
    return nn.functional.cross_entropy(outputs, labels), int((outputs.argmax(1) == labels).sum())


class Scores:
    """Judges an evaluation as a whole, behind its last batch.

    Args:
        labels: of the held-out samples.
        users: of each, by which samples are grouped.
    """

    def __init__(self, labels: Numbers, users: Numbers) -> None:
        self._labels, self._users = labels, users
        self._kept: list[npt.NDArray[np.float64]] = []

    def begin(self) -> None:
        """An evaluation begins."""
        self._kept.clear()

    @property
    def complete(self) -> bool:
        """Whether the scores of all held-out samples are there."""
        return sum(map(len, self._kept)) >= len(self._labels)

    def objective(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """See `objective`; without gradients it is an evaluation, whose scores are kept."""
        if not torch.is_grad_enabled():
            self._kept.append(outputs.detach().double().softmax(1)[:, 1].cpu().numpy())
        return objective(outputs, labels)

    def measures(self) -> dict[str, float | None]:
        """Of the last evaluation; one before it that was broken off does not count."""
        scores = np.concatenate([*self._kept, np.zeros(0)])
        self._kept.clear()
        count = len(self._labels)
        if len(scores) < count or not np.isfinite(scores[-count:]).all():
            return dict.fromkeys(("auc", "gauc", "log_loss", "batch_auc"))
        return measured(scores[-count:], self._labels, self._users)
