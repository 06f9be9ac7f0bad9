"""What codecs cost in accuracy: a measured table, ``codec_up,codec_down,loss_points``."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError

_COLUMNS = ("codec_up", "codec_down", "loss_points")


@dataclass(frozen=True)
class LossTable:
    """Accuracy that pairs of codecs lose, in points (percent of the test set) against no codec.

    A pair that nobody measured is unknown, but for none and none, which loses nothing.
    """

    points: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def of(self, codecs_up: Sequence[str], codecs_down: Sequence[str]) -> NDArray[np.float64]:
        """Points by codec up and codec down; NaN where unknown."""
        known = {("none", "none"): 0.0, **self.points}
        return np.array([[known.get((up, down), math.nan) for down in codecs_down] for up in codecs_up])


def load_losses(path: Path) -> LossTable:
    """Read a table; other columns are left aside. Of a pair with several rows the worst counts.

    Raises:
        UsageError: no such table, or cells that are no numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"the table of accuracy losses {path} cannot be read: {reason}") from None
    points: dict[tuple[str, str], float] = {}
    for number, row in enumerate(rows, start=2):
        if any(not row.get(name) for name in _COLUMNS):
            raise UsageError(f"{path} line {number}: a table of accuracy losses has {', '.join(_COLUMNS)} in each row")
        pair = row["codec_up"], row["codec_down"]
        try:
            loss = float(row["loss_points"])
        except ValueError:
            loss = math.nan
        if not math.isfinite(loss):
            raise UsageError(f"{path} line {number}: loss_points is {row['loss_points']!r}, no number")
        points[pair] = max(loss, points.get(pair, -math.inf))
    return LossTable(points)
