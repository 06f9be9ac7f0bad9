"""Runs of several parties that have ended, for a party that was killed before it heard so.

When all parties have had their answers, the server writes down that the run has ended, and only then tells them. Each
has a checkpoint of its end by then. So none needs the others any more: who comes back later is told what it missed.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from common.errors import JobRefused
from common.records import write_json
from common.training.pace import Pace

log = logging.getLogger(__name__)

_GROUP = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class EndedRuns:
    """What a server knows of them, in a file each.

    Args:
        run_dir: where they are.
    """

    run_dir: Path

    def add(self, group: str, digests: dict[str, str]) -> None:
        """A run has ended; with the digests of its tail's parameters and buffers."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            write_json(self._file(group), digests)
        except OSError as error:
            log.warning("a party that is killed now cannot go on: %s", error)
        log.info("run %s has ended: all parties have had their answers", group)

    def digests(self, group: str) -> dict[str, str] | None:
        """Of a run's tail; None of one that has not ended here."""
        if not _GROUP.fullmatch(group):
            return None
        try:
            return msgspec.json.decode(self._file(group).read_bytes(), type=dict[str, str])
        except (OSError, msgspec.MsgspecError):
            return None

    def _file(self, group: str) -> Path:
        return self.run_dir / f"parties-{group}-ended.json"


@dataclass(frozen=True)
class Latecomer:
    """A party's place in a run that has ended: in the place of `common.training.joint.Seat`."""

    digests: dict[str, str]

    def refuse(self) -> NoReturn:
        """Raises JobRefused: there is nobody to train with."""
        raise JobRefused("this run has ended, and the other parties with it; to train more, start all of them anew")

    def tell(self, pace: Pace) -> None:
        """There is nobody to tell."""

    def finish(self) -> dict[str, str]:
        """What the other parties were told."""
        return self.digests

    def leave(self) -> None:
        """Nobody waits."""

    def fail(self, why: str) -> None:
        """Nobody waits."""
