"""What a party holds: its positions of the histories, under ids that are the same at all parties.

Shapes: B samples, P positions of a party, S genre slots.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.datasets.clicks import HISTORY, Clicks, make_clicks, make_synthetic_clicks
from common.datasets.movielens import NAMES, Numbers, load_movielens
from common.errors import DataError, ProtocolError
from common.training.alignment import HELD_OUT, TRAINING, Announcement, Marks, hashed

log = logging.getLogger(__name__)

DATASET_PATH = Path("DIN/dataset")
_FIRST_OF_TWO = 4  # positions of A where there are A and B, as published


def load_clicks(dataset: str, path: Path | None, seed: int) -> Clicks:
    """The samples of a command line.

    Raises:
        DataError: they are not there, or damaged.
    """
    if dataset == "synthetic" or (not dataset and path is None):
        return make_synthetic_clicks(seed)
    folder = DATASET_PATH if path is None else path.expanduser()
    return make_clicks(dataset or folder.name, load_movielens(folder, name=dataset if dataset in NAMES else ""))


def positions(party: int, parties: int) -> slice:
    """The positions of a history that a party holds: 4 and 6 of two parties, else as equal as can be."""
    if parties == 2:
        return slice(0, _FIRST_OF_TWO) if party == 0 else slice(_FIRST_OF_TWO, HISTORY)
    return slice(HISTORY * party // parties, HISTORY * (party + 1) // parties)


@dataclass(frozen=True)
class Roll:
    """A party's samples in the order in which it announces them."""

    places: Numbers
    """int64 (N,), rows of its data."""
    announcement: Announcement


def call_roll(clicks: Clicks, own_salt: bytes, salt: bytes) -> Roll:
    """Ids of a party's samples, each once, in an order that follows from them.

    Args:
        clicks: the party's data.
        own_salt: what its user gave as a salt. The order follows from it, not from a salt that was drawn, so that a
            run can be repeated; who knows neither cannot read the order.
        salt: of the ids.

    Raises:
        DataError: samples of the same id differ.
    """
    places = _each_once(clicks)
    names = [b"%d:%d:%d" % tuple(key) for key in clicks.keys[places].tolist()]
    order = np.lexsort(hashed(names, own_salt, b"order").T[::-1])
    names = [names[i] for i in order]
    places = places[order]
    return Roll(places, Announcement(hashed(names, salt), clicks.held_out[places].astype(np.uint8)))


def _each_once(clicks: Clicks) -> Numbers:
    """Rows without repetitions of one sample."""
    _, places, inverse = np.unique(clicks.keys, axis=0, return_index=True, return_inverse=True)
    first = places[inverse.reshape(-1)]
    if repeated := len(clicks.keys) - len(places):
        same = (clicks.history == clicks.history[first]).all(1) & (clicks.labels == clicks.labels[first])
        if not same.all():
            user, film, time = clicks.keys[np.flatnonzero(~same)[0]]
            raise DataError(
                f"{clicks.name}: two samples are called user {user}, film {film}, time {time}, and they differ; which "
                "of them other parties mean cannot be known, so take one of them out"
            )
        log.warning("%s: %d samples were there more than once; each counts once", clicks.name, repeated)
    return places


@dataclass(frozen=True)
class PartySplit:
    """Aligned samples: number i is the same one at all parties."""

    places: Numbers
    """int64 (N,), rows of the party's data."""
    labels: Numbers
    """int64 (N,); zeros at a party that has none."""


@dataclass(frozen=True)
class PartyData:
    """A party's view of a data set."""

    clicks: Clicks
    own: slice
    train: PartySplit
    test: PartySplit

    @property
    def name(self) -> str:
        """As it was asked for."""
        return self.clicks.name

    @property
    def augment(self) -> bool:
        """Samples are never changed at random."""
        return False

    def inputs(self, split: PartySplit, ids: Numbers, random: np.random.Generator | None) -> npt.NDArray[np.int64]:
        """(B, P + 1, 1 + S): of each film of the party's positions, and of the candidate, number and genres."""
        rows = split.places[ids]
        films = np.concatenate([self.clicks.history[rows, self.own], self.clicks.keys[rows, 1:2]], 1)
        return np.concatenate([films[..., None], self.clicks.genres[films]], 2)

    @property
    def users(self) -> Numbers:
        """int64 (N,), of each held-out sample."""
        users: Numbers = self.clicks.keys[self.test.places, 0]
        return users


def aligned(clicks: Clicks, roll: Roll, marks: Marks, own: slice, *, labelled: bool) -> PartyData:
    """What is left of a party's data when it is known what all have.

    Raises:
        ProtocolError: nothing is left to train on.
    """
    if len(marks) != len(roll.places):
        raise ProtocolError(f"{len(marks)} marks came for {len(roll.places)} samples")
    parts = {}
    for mark in (TRAINING, HELD_OUT):
        places = roll.places[marks == mark]
        parts[mark] = PartySplit(places, clicks.labels[places] if labelled else np.zeros(len(places), np.int64))
    train, test = parts[TRAINING], parts[HELD_OUT]
    if len(train.places) < 2 or not len(test.places):
        raise ProtocolError(
            f"the parties have {len(train.places)} training and {len(test.places)} held-out samples in common; that is "
            "too few to train on"
        )
    if missing := len(marks) - len(train.places) - len(test.places):
        log.warning("%s: %d of %d samples are not at all parties; left out", clicks.name, missing, len(marks))
    return PartyData(clicks, own, train, test)
