"""Measured profiles that are kept: a device times a model once for each batch size."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash

from common.errors import UsageError
from common.profiling.device import device_name
from common.profiling.profile_file import load_profile, save_profile
from common.profiling.rows import Measured


@dataclass(frozen=True)
class Key:
    """What a profile holds for. Another torch or another number of threads is another device."""

    digest: str
    """Of the model's graph."""
    batch_size: int
    device: str
    level: str = "stage"

    @property
    def file_name(self) -> str:
        """Name of its CSV file."""
        machine = f"{device_name(self.device)}|{torch.get_num_threads()}|{torch.__version__}"
        device = re.sub(r"\W+", "", self.device)
        where = xxhash.xxh3_64_hexdigest(machine.encode())[:8]
        return f"{self.digest[:16]}-{self.batch_size}-{self.level}-{device}-{where}.csv"


def find(folder: Path, key: Key, codecs: tuple[str, ...] = ()) -> Measured | None:
    """The profile that was kept, if it has all these codecs; None where it must be measured."""
    path = folder / key.file_name
    if not path.exists():
        return None
    try:
        kept = load_profile(path)
    except UsageError:
        return None  # half a file, or of an older version: measuring again mends it
    if (kept.about.digest, kept.about.batch_size) != (key.digest, key.batch_size):
        return None
    return kept if set(codecs) <= set(kept.rows[0].codecs) else None


def keep(folder: Path, key: Key, measured: Measured) -> Path:
    """Save a profile where `find` looks; the path of its CSV file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} for profiles cannot be made: {error.strerror}") from None
    save_profile(folder / key.file_name, measured)
    return folder / key.file_name
