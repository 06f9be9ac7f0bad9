"""Which samples several parties have in common, by hashed ids; pure.

Each party announces its ids in an order that follows from the samples alone, so those in common are in the same order
everywhere, and their places in it are what uploads name them by.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import ProtocolError
from common.naming import letter

ID_BYTES = 16
MAX_IDS = 1 << 22
MAX_SALT_BYTES = 64
ABSENT, TRAINING, HELD_OUT = 0, 1, 2

Ids = npt.NDArray[np.uint8]
Marks = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Announcement:
    """What a party says of its samples."""

    ids: Ids
    """uint8 (N, 16): hashed ids, each once."""
    held_out: Marks
    """uint8 (N,): 1 where the party would hold the sample out."""


def hashed(names: Iterable[bytes], salt: bytes, purpose: bytes = b"id") -> Ids:
    """Keyed BLAKE2b of ids, uint8 (N, 16); who does not know the salt (up to 64 bytes) cannot try ids."""
    digests = [hashlib.blake2b(each, digest_size=ID_BYTES, key=salt, person=purpose).digest() for each in names]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, ID_BYTES)


def agree(announced: Sequence[Announcement], decider: int, parties: int | None = None) -> list[Marks]:
    """For each party, what becomes of each of its samples: `ABSENT` somewhere, for `TRAINING`, or `HELD_OUT`.

    Args:
        announced: by the parties, and behind them by the server, where it has labels.
        decider: whoever of them says which are held out.
        parties: how many of them are parties; default all.

    Raises:
        ProtocolError: an id came twice, none is in common, or the orders differ.
    """
    rows = [_rows(each.ids) for each in announced]
    names = [f"party {letter(each)}" if each < (parties or len(rows)) else "the server" for each in range(len(rows))]
    for name, row in zip(names, rows, strict=True):
        if len(np.unique(row)) != len(row):
            raise ProtocolError(f"{name} announced an id more than once; each sample has one of its own")
    common = rows[0]
    for row in rows[1:]:
        common = common[np.isin(common, row)]
    if not len(common):
        raise ProtocolError(
            "the parties have no sample in common; do they have the same users and films, and the same --salt?"
        )
    held_out = announced[decider].held_out[np.isin(rows[decider], common)]
    marks = []
    for name, row in zip(names, rows, strict=True):
        own = np.isin(row, common)
        if not np.array_equal(row[own], common):
            raise ProtocolError(f"{name} announced its samples in another order than party A")
        found = np.full(len(row), ABSENT, np.uint8)
        found[own] = np.where(held_out, HELD_OUT, TRAINING)
        marks.append(found)
    return marks


def _rows(ids: Ids) -> npt.NDArray[np.void]:
    """Each id as one value that can be sorted and compared."""
    return np.ascontiguousarray(ids).view(np.dtype([("high", ">u8"), ("low", ">u8")])).reshape(-1)
