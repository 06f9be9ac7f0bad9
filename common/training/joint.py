"""A tail that several parties share, each with a head of its own: one step of it for one upload of each.

A step's uploads are of the same samples, so what one party uploads waits for the others'. Who comes last computes for
all; each party's answer has the gradients of its own activations.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from common.errors import JobRefused, ProtocolError, SessionGone, TandemError
from common.naming import letter
from common.training.digest import parameter_digests
from common.training.exchange import Answer, Forwarded, Returned, Upload
from common.training.pace import Pace, slowest
from common.training.tail import Tail
from common.wire.structs import TailTimes


class Judge(Protocol):
    """What a cloud that has the labels knows of a group's samples."""

    def labels(self, upload: Upload) -> Tensor:
        """(B,) of an upload's samples.

        Raises:
            ProtocolError: there are no such samples.
        """

    def objective(self, outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
        """See `common.training.exchange.Objective`."""


class Joint:
    """Where the parties of a run meet, step by step. Each acts in a thread of its own.

    Args:
        tail: of `make_joint`.
        parties: how many there are.
        owner: the party that has the labels, to which the outputs go down; None where ``judge`` has them.
        timer: see `common.training.timed.busy_timer`.
        judge: has the labels, where no party has.
        turns: held while it computes.
        at_end: told the tail's digests when all parties have finished, before they are.
    """

    def __init__(
        self,
        tail: Tail,
        parties: int,
        owner: int | None,
        timer: Callable[[], Callable[[], float]],
        *,
        judge: Judge | None = None,
        turns: AbstractContextManager[object] | None = None,
        at_end: Callable[[dict[str, str]], None] | None = None,
    ) -> None:
        self.tail = tail
        self._parties, self._owner, self._judge = parties, owner, judge
        self._timer = timer
        self._turns = turns or nullcontext()
        self._at_end = at_end or _in_silence
        self._uploads: dict[int, Upload] = {}
        self._under_way: dict[int, Upload] = {}
        self._ready: dict[int, Answer | Forwarded] = {}
        self._awaits_owner = False
        self._compute: tuple[float, float] = (0.0, 0.0)
        self._finished: set[int] = set()
        self._paces: list[Pace | None] = [None] * parties
        self._ended: TandemError | None = None
        self._changed = threading.Condition()

    @property
    def ended(self) -> bool:
        """Whether nobody can act here any more."""
        return self._ended is not None or self._all_finished

    @property
    def _all_finished(self) -> bool:
        return len(self._finished) == self._parties

    def act(self, party: int, item: Upload | Returned) -> Answer | Forwarded:
        """Bring a party's part of a step; what it gets for it, once all others have brought theirs.

        Raises:
            ProtocolError: it does not fit what the others have brought.
            SessionGone: another party's session has ended; all go back to a checkpoint.
            JobRefused: another party is gone for good.
        """
        with self._changed:
            self._require_open()
            try:
                if isinstance(item, Returned):
                    self._turn(party, item)
                else:
                    self._bring(party, item)
            except TandemError as error:
                self._end(JobRefused(f"party {letter(party)} broke the run: {error}"))
                raise
            self._changed.wait_for(lambda: party in self._ready or self._ended is not None)
            if party not in self._ready:
                self._require_open()
            return self._ready.pop(party)

    def tell(self, party: int, pace: Pace) -> Pace | None:
        """Take note of a party's newest pace; the slowest of the others', once all have told theirs.

        It does not wait for a step that is computed: its caller's answer tells the round trip as well.
        """
        self._paces[party] = pace
        others = [each for number, each in enumerate(self._paces) if number != party]
        known = [each for each in others if each is not None]
        return slowest(known) if len(known) == len(others) else None

    def finish(self, party: int) -> dict[str, str]:
        """A party has had all of its answers, and stays until all have: who is lost before needs the others once more.

        Returns:
            Digests of the tail's parameters and buffers.

        Raises:
            SessionGone: another party's session has ended; all go back to a checkpoint.
            JobRefused: another party is gone for good.
        """
        with self._changed:
            self._require_open()
            digests = parameter_digests(self.tail.part)
            self._finished.add(party)
            if self._all_finished:
                self._at_end(digests)
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._all_finished or self._ended is not None)
            if not self._all_finished:
                self._require_open()
            return digests

    def leave(self, party: int) -> None:
        """A party's session has ended: the others go back to a checkpoint, where not all have finished."""
        self._give_up(SessionGone(f"the session of party {letter(party)} has ended, and it is waited for"))

    def fail(self, party: int, why: str) -> None:
        """A party will not come back: the run is over."""
        self._give_up(JobRefused(f"the run has lost party {letter(party)}: {why}"))

    def _give_up(self, error: TandemError) -> None:
        with self._changed:
            if not self._all_finished:
                self._end(error)

    def _end(self, error: TandemError) -> None:
        self._ended = self._ended or error
        self._changed.notify_all()

    def _require_open(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(str(self._ended))

    def _bring(self, party: int, upload: Upload) -> None:
        if self._awaits_owner and party == self._owner:
            raise ProtocolError("activations came where the gradients of the last outputs were due")
        for other, its in self._uploads.items():
            _require_same(upload, party, its, other)
        if self._finished:
            raise ProtocolError(f"party {letter(min(self._finished))} has finished, and more activations came")
        self._uploads[party] = upload
        if len(self._uploads) == self._parties:
            self._step()
            self._changed.notify_all()

    def _step(self) -> None:
        """All uploads of a step are there."""
        self._under_way, self._uploads = self._uploads, {}
        each = [self._under_way[party] for party in range(self._parties)]
        joined = replace(
            each[0],
            tensors=tuple(tensor for upload in each for tensor in upload.tensors),
            gradients_wanted=tuple(wanted for upload in each for wanted in upload.gradients_wanted),
            random_state=None,  # each party draws its own
        )
        with self._turns:
            start, stop = time.perf_counter(), self._timer()
            if self._judge is not None:
                answer = self.tail.step(replace(joined, labels=self._judge.labels(joined)))
                self._compute = (start, stop())
                self._share(answer)
                return
            forwarded = self.tail.forward(joined)
            self._compute = (start, stop())
        if self._owner is None:
            raise ProtocolError("no party has labels")
        self._ready[self._owner] = replace(forwarded, times=self._times(self._owner))
        self._awaits_owner = joined.training
        if not joined.training:
            # The others do not hear how good the scores are: only who has the labels knows.
            unknown = Answer(joined.step, False, math.nan, 0, len(joined.ids), ())
            for party in set(self._under_way) - {self._owner}:
                self._ready[party] = replace(unknown, times=self._times(party))

    def _turn(self, party: int, returned: Returned) -> None:
        """The loss's gradients have come from who has the labels."""
        if party != self._owner or not self._awaits_owner:
            raise ProtocolError(f"gradients of the outputs of step {returned.step} came, which were not sent")
        self._awaits_owner = False
        with self._turns:
            stop = self._timer()
            answer = self.tail.turn(returned)
            start, busy_s = self._compute
            self._compute = (start, busy_s + stop())
        self._share(answer)
        self._changed.notify_all()

    def _share(self, answer: Answer) -> None:
        """To each party the gradients of its own activations."""
        gradients = list(answer.gradients)
        for party in range(self._parties):
            count = sum(self._under_way[party].gradients_wanted) if answer.training else 0
            own, gradients = tuple(gradients[:count]), gradients[count:]
            self._ready[party] = replace(answer, gradients=own, times=self._times(party))

    def _times(self, party: int) -> TailTimes:
        return msgspec.structs.replace(self._under_way[party].times, compute=self._compute)


@dataclass(frozen=True)
class Seat:
    """One party's place at a joint tail."""

    joint: Joint
    party: int

    def act(self, item: Upload | Returned) -> Answer | Forwarded:
        """See `Joint.act`."""
        return self.joint.act(self.party, item)

    def tell(self, pace: Pace) -> Pace | None:
        """See `Joint.tell`."""
        return self.joint.tell(self.party, pace)

    def finish(self) -> dict[str, str]:
        """See `Joint.finish`."""
        return self.joint.finish(self.party)

    def leave(self) -> None:
        """See `Joint.leave`."""
        self.joint.leave(self.party)

    def fail(self, why: str) -> None:
        """See `Joint.fail`."""
        self.joint.fail(self.party, why)


def _in_silence(_digests: dict[str, str]) -> None:
    """Where all parties are of this process, nobody comes later."""


def _require_same(upload: Upload, party: int, its: Upload, other: int) -> None:
    """Raises ProtocolError where two parties' uploads are not of the same samples."""
    ours, theirs = (f"{'step' if each.training else 'evaluation batch'} {each.step}" for each in (upload, its))
    if (upload.step, upload.training, upload.epoch) != (its.step, its.training, its.epoch):
        raise ProtocolError(
            f"party {letter(party)} is at {ours} (epoch {upload.epoch}) where party {letter(other)} is at {theirs} "
            f"(epoch {its.epoch}); all parties must be started with the same options"
        )
    if not torch.equal(upload.ids, its.ids):
        raise ProtocolError(
            f"parties {letter(party)} and {letter(other)} sent different samples in {ours}; their samples were not "
            "aligned, or not with each other"
        )
