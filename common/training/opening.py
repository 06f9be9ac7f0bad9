"""From an edge's request to a session: the model built, cut and checked, its state fetched where it goes on."""

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from common.errors import JobRefused, SessionGone
from common.naming import printable
from common.partition.steps import state_of
from common.profiling.rows import Measured as Profiled
from common.training.checkpoint import CheckpointStore, kept_checkpoints, read_facts
from common.training.directions import make_cloud_half
from common.training.ended import EndedRuns, Latecomer
from common.training.exchange import Objective
from common.training.gathering import Comer, Gatherings
from common.training.hosted import Hosted, Place
from common.training.joint import Seat
from common.training.kept import Parts
from common.training.part_state import State, unflat
from common.training.prepare import STATE_COPIES, Prepared, kept_bytes, largest_body, largest_frame, prepare
from common.training.profiles import FOLDER, profile_of, top_s
from common.training.sharing import Groups, Share
from common.training.station import Station, TailFacts, kept_answers
from common.training.timed import busy_timer
from common.wire.framing import Limits
from common.wire.messages import Open
from common.wire.structs import Job, Resume

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 30
"""Of a job's largest step, or of the blocks that move; what a session can make this server allocate for a frame."""
_OF_THE_MOMENT = frozenset(
    ("epochs", "cut", "cut_name", "splits", "split_index", "compress_up", "compress_down", "stale_it")
)
_MOST_CODECS = 32
_SESSION_NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Recipe:
    """What the server knows of a workload: how to build its model and what it optimises."""

    build: Callable[[Job], nn.Module]
    objective: Objective
    top: Callable[[Job], nn.Module] | None = None
    """Of workloads of several parties: what takes the outputs of all."""


@dataclass(frozen=True)
class Opener:
    """Makes sessions.

    Args:
        recipes: workloads by name.
        pinned: fields of the job that must have these values (those that the server was started with).
        device: where the tails compute.
        codec_memory_mb: what the codecs of a session may remember, in MiB.
        run_dir: where checkpoints and trained tails go.
        place: what the server gives each session.
        groups: what sessions have in common.
    """

    recipes: Mapping[str, Recipe]
    pinned: Mapping[str, Any]
    device: str
    codec_memory_mb: int
    run_dir: Path
    place: Place
    groups: Groups
    gatherings: Gatherings
    """Of runs of several parties."""
    ended: EndedRuns
    """Those of them that are over."""

    def open(self, request: Open) -> tuple[Hosted, tuple[str, ...]]:
        """A new session, or one that goes on from a checkpoint; and sentences for the edge's user.

        Raises:
            JobRefused: a job that this server will not carry out.
            SessionGone: there is no checkpoint that both sides have.
            TandemError: the model cannot be built, cut or trained.
        """
        job = request.job
        prepared, notes = self._prepared(job)
        name, key, state, received = secrets.token_hex(8), secrets.token_bytes(16), None, 0
        folder = self.run_dir / f"{time.strftime('%Y%m%d-%H%M%S')}-server-{job.model}-{name}"
        tensors: dict[str, Tensor] = {}
        facts: TailFacts | None = None
        if request.resume is not None:
            if self.groups.share is not Share.NONE:
                raise SessionGone(
                    f"what edges train together (--share {self.groups.share.value}) has no checkpoints; start anew"
                )
            name, key = request.resume.session, request.resume.key
            folder = self._folder_of(name)
        keep = kept_checkpoints(min(job.stale_it, request.window)) + job.parties
        store = CheckpointStore(folder / "checkpoints", keep, partial(_could_not, name))
        seat: Seat | Latecomer | None = None
        if job.parties:
            seat, received = self._sit(prepared, request, store)
        elif request.resume is not None:
            received = _newest_common(store, request.resume)
        with ExitStack() as failing:  # the others must not wait for a party that cannot begin
            if seat is not None:
                failing.callback(seat.leave)
            if request.resume is not None and not isinstance(seat, Latecomer):
                tensors, facts = store.read(received, TailFacts)
                job = _same_job(facts, request)
                store.forget_behind(received)
                state = unflat(tensors, "tail/")
            station, leave = self._station(prepared, job, name, key, store, received, state, seat)
            kept: list[Parts] = []
            if facts is not None:
                station.load(tensors, facts)
                kept = kept_answers(tensors)
            limits = Limits(body_bytes=self._body(prepared, job))
            failing.pop_all()
        session = Hosted(
            name,
            key,
            station,
            folder,
            limits=limits,
            window=request.window,
            place=self.place,
            received=received,
            kept=kept,
        )

        def allow(moved: Job) -> None:
            session.grow(self._body(prepared, moved))

        station.allow = allow
        session.leave = leave
        body = largest_body(prepared.graph, job)
        session.memory_bytes = _memory(station, request.window, body) + kept_bytes(prepared.graph, job)
        return session, notes

    def profile(self, job: Job, codecs: Sequence[str]) -> tuple[Profiled, float]:
        """This machine's times for a job's model, and the seconds that it computes in a step besides.

        Raises:
            JobRefused: a job that this server will not carry out.
            TandemError: the model cannot be built, cut or trained, or there is no such codec.
        """
        if len(codecs) > _MOST_CODECS:
            raise JobRefused(f"{len(codecs)} codecs are to be timed; {_MOST_CODECS} are the most")
        prepared, _ = self._prepared(job)
        profile = profile_of(prepared, job, codecs, self.device, self.run_dir / FOLDER)
        recipe = self.recipes[job.workload]
        if recipe.top is None:
            return profile, 0.0
        return profile, top_s(prepared, job, partial(recipe.top, job), recipe.objective, self.device)

    def _prepared(self, job: Job) -> tuple[Prepared, tuple[str, ...]]:
        """The model of a job, if this server takes it."""
        for name, value in self.pinned.items():
            if getattr(job, name) != value:
                raise JobRefused(
                    f"this server was started with --{name} {value}, the client with {getattr(job, name)}; "
                    "start both with the same"
                )
        if job.workload not in self.recipes:
            raise JobRefused(f"this server has no workload {job.workload!r}; it has {', '.join(self.recipes)}")
        recipe = self.recipes[job.workload]
        prepared = prepare(lambda: recipe.build(job), job.input_shape, job.seed)
        if prepared.graph.digest != job.graph_digest:
            raise JobRefused(
                f"{job.model} is another model here than at the client (graph {prepared.graph.digest[:8]} against "
                f"{job.graph_digest[:8]}); install the same version of Tandem and torch on both machines"
            )
        if prepared.weights_digest != job.weights_digest:
            return prepared, ("the seed gives other first weights on the server (another processor or torch version)",)
        return prepared, ()

    def _station(
        self,
        prepared: Prepared,
        job: Job,
        name: str,
        key: bytes,
        store: CheckpointStore,
        received: int,
        state: State | None,
        seat: Seat | Latecomer | None,
    ) -> tuple[Station, Callable[[], None]]:
        """The station of a session, and what to call at its end."""
        make = partial(
            make_cloud_half,
            prepared,
            device=self.device,
            objective=self.recipes[job.workload].objective,
            memory_mb=self.codec_memory_mb,
        )
        timer = busy_timer(self.device)
        if seat is not None:
            make = make if isinstance(seat, Latecomer) else partial(make, common=seat.joint.tail)
            station = Station(prepared.graph, job, make, timer, store=store, key=key, received=received)
            station.seat = seat
            leave: Callable[[], None] = seat.leave
        elif self.groups.share is Share.NONE:
            station = Station(prepared.graph, job, make, timer, store=store, key=key, received=received, state=state)
            leave = _nothing
        else:
            group, leave = self.groups.join(name, job)
            try:
                with group.turns:
                    common = group.tail if self.groups.share is Share.TAIL else None
                    station = Station(prepared.graph, job, partial(make, common=common), timer, key=key)
                    group.tail = group.tail or station.tail
            except BaseException:
                leave()
                raise
            station.together = group.meeting(name, job.samples) if self.groups.share is Share.AVERAGE else _alone
            if self.groups.share is Share.TAIL:
                station.turns = group.turns
        prepared.graph.forget_weights()  # the head's are the edge's to keep
        return station, leave

    def _sit(self, prepared: Prepared, request: Open, store: CheckpointStore) -> tuple[Seat | Latecomer, int]:
        """The place of a party at the tail that it shares with others, which it waits for; and its checkpoint.

        Of a run that has ended for all, that is the edge's last one, with which it lacks no more than to hear so.
        """
        job, resume = request.job, request.resume
        if self.groups.share is not Share.NONE:
            raise JobRefused("several parties train one model; a server with --share does not serve them")
        checkpoints: dict[int, int] | None = None
        if resume is not None:
            checkpoints = {}
            for number in sorted(set(store.numbers()) & set(resume.checkpoints)):
                facts = read_facts(store.folder, number, TailFacts)
                _same_job(facts, request)
                checkpoints[facts.next_step] = number
            if checkpoints and (digests := self.ended.digests(job.group)) is not None:
                return Latecomer(digests), max(resume.checkpoints)
        return self.gatherings.sit(
            Comer(prepared, job, checkpoints, lambda number: unflat(store.read(number, TailFacts)[0], "tail/"))
        )

    @staticmethod
    def _body(prepared: Prepared, job: Job) -> int:
        """Bytes of the largest body that the edge may send."""
        step = largest_body(prepared.graph, job)
        if step > MAX_BODY_BYTES:
            raise JobRefused(
                f"a step of this job may take {step} bytes on the wire, this server takes "
                f"{MAX_BODY_BYTES}; choose a smaller --batch_size, or another cut"
            )
        return min(MAX_BODY_BYTES, largest_frame(prepared.graph, job))

    def _folder_of(self, name: str) -> Path:
        found = sorted(self.run_dir.glob(f"*-server-*-{name}")) if _SESSION_NAME.fullmatch(name) else []
        if not found:
            raise SessionGone(f"there is no checkpoint of session {printable(name, 64)!r} in {self.run_dir}")
        return found[-1]


def _newest_common(store: CheckpointStore, resume: Resume) -> int:
    mine = store.numbers()
    common = set(mine) & set(resume.checkpoints)
    if not common:
        raise SessionGone(
            f"session {resume.session} has checkpoints {list(mine)} here and {list(resume.checkpoints)[:9]} at the "
            "client; none is on both sides"
        )
    return max(common)


def _same_job(facts: TailFacts, request: Open) -> Job:
    """The job of a resumed session. Only what does not change what was trained may be another than before."""
    if request.resume is None or not secrets.compare_digest(facts.key, request.resume.key):
        raise SessionGone("no session of this name is yours")
    for field in msgspec.structs.fields(Job):
        before, now = getattr(facts.job, field.name), getattr(request.job, field.name)
        if field.name not in _OF_THE_MOMENT and before != now:
            raise JobRefused(f"the session was trained with {field.name} {before}, and is resumed with {now}")
    return msgspec.structs.replace(facts.job, epochs=request.job.epochs)


def _memory(station: Station, window: int, body: int) -> int:
    """What a session may take: its part's state, and as many steps as may be under way."""
    weights = sum(value.nbytes for value in state_of(station.tail.part).values())
    return STATE_COPIES * weights + (min(window, 1 + station.job.stale_it) + 1) * body


def _nothing() -> None:
    """At the end of a session that has nothing in common with others."""


def _alone(head: State, tail: State) -> tuple[State, State, int]:
    """The mean, where each edge keeps its own head."""
    return head, tail, 1


def _could_not(name: str, words: str) -> None:
    log.warning("session %s: %s", name, words)
