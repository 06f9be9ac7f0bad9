"""The labels of a server that has them: looked up by id, and judged there."""

import logging
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.datasets.clicks import Clicks
from common.datasets.movielens import Numbers
from common.errors import JobRefused, ProtocolError, SessionGone
from common.records import CsvTable
from common.training.alignment import Announcement, Marks
from common.training.exchange import Upload
from common.wire.structs import Job
from DIN.metrics import told
from DIN.samples import PartyData, PartySplit, Roll, aligned, call_roll
from DIN.scores import Scores

log = logging.getLogger(__name__)

_GROUP = re.compile(r"[0-9a-f]{16}")


class GroupLabels:
    """The labels of one run's samples; writes what it measures to a table.

    Args:
        data: the server's, aligned with the parties'.
        table: a row an evaluation.
    """

    def __init__(self, data: PartyData, table: Path) -> None:
        self._labels = {True: data.train.labels, False: data.test.labels}
        self._scores = Scores(data.test.labels, data.users)
        self._table = table

    def labels(self, upload: Upload) -> Tensor:
        """See `common.training.joint.Judge`; an evaluation begins with its batch 0."""
        known, ids = self._labels[upload.training], upload.ids.numpy()
        if not 0 <= ids.min(initial=0) <= ids.max(initial=0) < len(known):
            raise ProtocolError(f"samples {ids.min()} to {ids.max()} came; the parties have {len(known)} in common")
        if not upload.training and upload.step == 0:
            self._scores.begin()
        return torch.from_numpy(known[ids])

    def objective(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """See `DIN.scores.Scores.objective`; behind the last batch the evaluation is judged."""
        found = self._scores.objective(outputs, labels)
        if self._scores.complete and not torch.is_grad_enabled():
            measures = self._scores.measures()
            log.info("held out: %s", told(measures))
            CsvTable(self._table).add(dict(measures))
        return found


class ServerLabels:
    """The labels of all runs of a server; see `common.training.meeting.Labels`.

    Args:
        clicks: the server's data.
        salt: as the parties were given it.
        run_dir: where it is written down which samples a run has, for a server that is started again.
    """

    def __init__(self, clicks: Clicks, salt: bytes, run_dir: Path) -> None:
        self._clicks, self._salt, self._run_dir = clicks, salt, run_dir

    def announce(self, salt: bytes) -> Announcement:
        """All samples that it has labels of.

        Raises:
            JobRefused: the parties were given a salt, and this server was not.
        """
        if not (salt or self._salt):
            raise JobRefused("the parties were started with --salt, and the server has the labels: give it the same")
        return self._roll(salt).announcement

    def agreed(self, group: str, salt: bytes, marks: Marks) -> None:
        """Write down which rows of the server's data they are."""
        data = aligned(self._clicks, self._roll(salt), marks, slice(0, 0), labelled=True)
        places = {"train": data.train.places, "test": data.test.places}
        save_file({name: torch.from_numpy(value) for name, value in places.items()}, self._file(group))

    def of(self, job: Job) -> GroupLabels:
        """The labels of a run.

        Raises:
            SessionGone: nothing is known of it here.
        """
        if not _GROUP.fullmatch(job.group) or not (file := self._file(job.group)).exists():
            raise SessionGone("this server does not know which samples the run has; start it anew")
        try:
            places = load_file(file)
            train, test = (_split(self._clicks, places[name].numpy()) for name in ("train", "test"))
        except (OSError, KeyError, IndexError, SafetensorError) as error:
            raise SessionGone(f"{file} cannot be read, or is of other data: {error}") from None
        data = PartyData(self._clicks, slice(0, 0), train, test)
        return GroupLabels(data, self._run_dir / f"din-{job.group}-epochs.csv")

    def _roll(self, salt: bytes) -> Roll:
        """The order follows from a salt that users gave, not from one that the parties drew."""
        return call_roll(self._clicks, b"" if salt else self._salt, salt or self._salt)

    def _file(self, group: str) -> Path:
        return self._run_dir / f"din-{group}.safetensors"


def _split(clicks: Clicks, places: Numbers) -> PartySplit:
    return PartySplit(places, clicks.labels[places])
