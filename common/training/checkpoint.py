"""Checkpoints: the state of one side at a place in the session that both sides know, in a folder of its own.

A checkpoint's number counts the frames that the edge had sent when it was taken. Edge and cloud take it at the same
number, without stopping: what is under way is part of it (at the edge the steps whose gradients have not come, at the
cloud the answers that the edge has not applied). So both can go back to the newest number that both have, and go on.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import DataError

S = TypeVar("S", bound=msgspec.Struct)

_TENSORS, _FACTS = "state.safetensors", "state.json"


class PendingStep(msgspec.Struct, frozen=True):
    """A step of the head whose gradient has not been applied."""

    step: int
    epoch: int
    count: int
    inputs: int
    """Number of input tensors, under ``inputs/STEP/``."""
    errors: int
    """Number of tensors of coding error, under ``errors/STEP/``."""
    wanted: tuple[bool, ...]
    gradients: tuple[tuple[tuple[int, ...], str], ...]


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def kept_checkpoints(stale_it: int) -> int:
    """How many each side keeps, so that at any moment one is on the disks of both.

    A side writes one checkpoint at a time, so when it takes number i, the one before is on its disk. The edge may be
    ahead of what the cloud has taken by as many checkpoints as steps may be under way.
    """
    return stale_it + 3


class CheckpointStore:
    """The checkpoints of one side of a session.

    Each is written to a hidden folder, flushed to the disk, and renamed: what has a number is whole.

    Args:
        folder: where they are; made with the first one.
        keep: how many are left on disk. The other side may not have the newest ones yet: see `kept_checkpoints`.
        failed: told of a checkpoint that could not be written (a full disk, say); the session goes on.
    """

    def __init__(self, folder: Path, keep: int, failed: Callable[[str], None]) -> None:
        self.folder = folder
        self._keep = keep
        self._failed = failed
        self._writing: threading.Thread | None = None

    def numbers(self) -> tuple[int, ...]:
        """Numbers of the checkpoints on disk, ascending."""
        if not self.folder.is_dir():
            return ()
        whole = (each for each in self.folder.iterdir() if each.name.isdigit() and (each / _FACTS).exists())
        return tuple(sorted(int(each.name) for each in whole))

    def write(self, number: int, tensors: Mapping[str, Tensor], facts: msgspec.Struct) -> None:
        """Write a checkpoint beside the session, once the one before it is written.

        Args:
            number: of the checkpoint.
            tensors: nobody changes them any more.
            facts: all that is no tensor.
        """
        self.join()
        work = (number, dict(tensors), msgspec.json.format(msgspec.json.encode(facts), indent=1))
        self._writing = threading.Thread(target=self._write, args=work, name="checkpoint")
        self._writing.start()

    def join(self) -> None:
        """Wait until what is being written is on disk."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def read(self, number: int, kind: type[S]) -> tuple[dict[str, Tensor], S]:
        """Tensors and facts of a checkpoint.

        Raises:
            DataError: it is not there, or damaged.
        """
        place = self.folder / _name(number)
        try:
            facts = msgspec.json.decode((place / _FACTS).read_bytes(), type=kind)
            return load_file(place / _TENSORS), facts
        except (OSError, SafetensorError, msgspec.MsgspecError) as error:
            raise DataError(f"the checkpoint {place} cannot be read: {error}") from error

    def clear(self) -> None:
        """Drop all checkpoints: the run is over."""
        self.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # something else is in there
            self.folder.parent.rmdir()

    def forget_behind(self, number: int) -> None:
        """Drop checkpoints that are newer than the one that a session goes on from."""
        for each in self.numbers():
            if each > number:
                self._remove(each)

    def _write(self, number: int, tensors: dict[str, Tensor], facts: bytes) -> None:
        draft = self.folder / f".{_name(number)}"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            save_file(tensors, draft / _TENSORS)
            (draft / _FACTS).write_bytes(facts)
            for path in (draft / _TENSORS, draft / _FACTS, draft):
                _flush(path)
            place = self.folder / _name(number)
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)
            _flush(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            self._failed(f"no checkpoint could be written to {self.folder}: {error}")
            return
        for each in self.numbers()[: -self._keep]:
            self._remove(each)

    def _remove(self, number: int) -> None:
        # Its facts first: without them it is none, whatever happens in between.
        with contextlib.suppress(OSError):
            (self.folder / _name(number) / _FACTS).unlink()
        shutil.rmtree(self.folder / _name(number), ignore_errors=True)


def read_facts(folder: Path, number: int, kind: type[S]) -> S:
    """What is no tensor of a checkpoint.

    Raises:
        DataError: it is not there, or damaged.
    """
    path = folder / _name(number) / _FACTS
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"the checkpoint {path.parent} cannot be read: {error}") from error


def _name(number: int) -> str:
    return f"{number:012d}"


def _flush(path: Path) -> None:
    """See that a file, or the names in a folder, are on the disk."""
    handle: Any = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
