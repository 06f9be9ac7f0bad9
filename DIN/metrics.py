"""How well scores order samples: AUC over all, per user (GAUC), log loss, and AUC as it was published."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Scores = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

PUBLISHED_BATCH = 1000
_LEAST = 1e-7


def auc(scores: Scores, labels: Numbers) -> float | None:
    """Chance that a liked sample has a higher score than one that is not; None where all labels are the same."""
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) > 1 else None


def group_auc(scores: Scores, labels: Numbers, groups: Numbers) -> float | None:
    """Mean of the AUC within each group (user), weighted by its samples (Zhu et al., KDD 2017).

    Groups whose labels are all the same have none, and do not count; None where there is no other.
    """
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    found = [(auc(scores[each], labels[each]), len(each)) for each in np.split(order, ends)]
    weighed = [(value * count, count) for value, count in found if value is not None]
    return sum(value for value, _ in weighed) / sum(count for _, count in weighed) if weighed else None


def batch_auc(scores: Scores, labels: Numbers, size: int = PUBLISHED_BATCH) -> float | None:
    """Mean of the AUC of each 1,000 samples: what was published. It depends on their order."""
    values = [auc(scores[i : i + size], labels[i : i + size]) for i in range(0, len(scores), size)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def log_loss(scores: Scores, labels: Numbers) -> float:
    """Mean of -log of the chance that was given to what came; chances are kept 1e-7 from 0 and 1."""
    given = np.clip(np.where(labels == 1, scores, 1 - scores), _LEAST, 1)
    return float(-np.log(given).mean())


def measured(scores: Scores, labels: Numbers, users: Numbers) -> dict[str, float | None]:
    """All of them, by the names of the records."""
    return {
        "auc": auc(scores, labels),
        "gauc": group_auc(scores, labels, users),
        "log_loss": log_loss(scores, labels),
        "batch_auc": batch_auc(scores, labels),
    }


def told(values: Mapping[str, Any]) -> str:
    """In words for the user."""
    names = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "batch_auc": "mean AUC of batches (as published)"}
    known = {name: values.get(name) for name in names}
    return ", ".join(f"{names[name]} {'-' if value is None else f'{value:.4f}'}" for name, value in known.items())
