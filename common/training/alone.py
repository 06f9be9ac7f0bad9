"""An edge whose cloud is away trains on alone, with the whole model, and hands the tail back when the cloud returns.

It can because each checkpoint of such a run brings a copy of the tail down: from the newest one on, the steps are
computed here, one after the other and uncompressed. So nothing is lost, but what the cloud had computed behind that
checkpoint is computed again, and the run is no longer one that a cloud was there for all the time.
"""

import logging
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from common.errors import TandemError
from common.training.checkpoint import CheckpointStore
from common.training.in_process import InProcess
from common.training.part_state import State, state_of_part, unflat
from common.training.remote import Cloud
from common.training.station import Station, TailFacts
from common.training.trainer import CloudIsBack, Trainer
from common.wire.structs import Job

log = logging.getLogger(__name__)

PROBE_S = 5.0
"""Between two looks at whether the cloud is back."""


class MakeStation(Protocol):
    """Makes the other half of a session in this process."""

    def __call__(self, job: Job, *, received: int = 0, state: State | None = None) -> Station:
        """The station of a job; where it goes on, with the frames that came before and the tail's state."""


@dataclass(frozen=True)
class Refuge:
    """What an edge needs to train alone."""

    make: MakeStation
    store: CheckpointStore
    """Copies of the tail."""


class Probe:
    """Looks now and then whether a server can be reached; a context manager."""

    def __init__(self, cloud: Cloud, every_s: float) -> None:
        self._cloud, self._every_s = cloud, every_s
        self._ending, self._found = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def found(self) -> bool:
        """Whether it could be."""
        return self._found.is_set()

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            try:
                self._cloud.dial_control().close()
            except TandemError:
                continue
            self._found.set()
            return


def newest_copy(trainer: Trainer, refuge: Refuge) -> int:
    """Number of the newest checkpoint that this edge has both halves of; 0 where there is none."""
    trainer.store.join()
    refuge.store.join()
    return max(set(trainer.store.numbers()) & set(refuge.store.numbers()), default=0)


def train_alone(trainer: Trainer, refuge: Refuge, cloud: Cloud) -> tuple[dict[str, str] | None, State]:
    """Train from the newest copy on until the run is over, or the cloud is back.

    Returns:
        Digests of the tail where the run is over, else None; and the state of the tail.

    Raises:
        DataError: the copy cannot be read.
    """
    number = newest_copy(trainer, refuge)
    tensors, facts = refuge.store.read(number, TailFacts)
    trainer.restore(number, alone=True)
    refuge.store.forget_behind(number)
    station = refuge.make(trainer.job, received=number, state=unflat(tensors, "tail/"))
    station.tail.order.load_state((facts.next_step, facts.epoch))
    carrier = InProcess(trainer.head, station, trainer.journal, tally=trainer.tally)
    log.warning("training goes on alone from step %d, with the whole model on this machine", trainer.step)
    digests = None
    with Probe(cloud, PROBE_S) as probe:
        try:
            digests = trainer.run(carrier, probe.found)
        except CloudIsBack:
            log.info("the cloud is back at step %d", trainer.step)
    return digests, state_of_part(station.tail.part, station.tail.updater)
