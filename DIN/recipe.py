"""The Deep Interest Network as a recipe, and the job of a party."""

from dataclasses import dataclass

import msgspec
from torch import nn

from common.datasets.batches import Batches
from common.datasets.movielens import GENRES, MAX_MOVIE, SLOTS
from common.errors import JobRefused, UsageError
from common.models.din import DIN
from common.partition.points import CutPoint
from common.training.moving import find_cut
from common.training.opening import Recipe
from common.training.prepare import Prepared, prepare
from common.wire.structs import Job
from DIN.options import JobOptions
from DIN.samples import PartyData, positions
from DIN.scores import objective

WORKLOAD = "din"
_MAX_EMBEDDED = 16 << 20  # films of all parties together: 1 GiB of embeddings


def _whole(job: Job) -> DIN:
    """The model of all parties: weights are drawn in one order, wherever a part is."""
    if not 2 <= job.vocabulary <= MAX_MOVIE + 1 or job.vocabulary * job.parties > _MAX_EMBEDDED:
        raise JobRefused(f"{job.vocabulary} films at {job.parties} parties; {_MAX_EMBEDDED} together are the most")
    return DIN(job.parties, job.vocabulary, len(GENRES) + 1)


def build_bottom(job: Job) -> nn.Module:
    """A party's own model."""
    own = positions(job.party, job.parties)
    due = (own.stop - own.start + 1, 1 + SLOTS)
    if job.input_shape != due or job.num_classes != 2:
        raise JobRefused(
            f"party {job.party + 1} of {job.parties} has samples of shape {job.input_shape}, and {due} are due; "
            "install the same version of Tandem on all machines"
        )
    return _whole(job).bottoms[job.party]


def build_top(job: Job) -> nn.Module:
    """What takes all parties' outputs."""
    return _whole(job).top


RECIPE = Recipe(build_bottom, objective, build_top)


@dataclass(frozen=True)
class PartyPlan:
    """All that a command line stands for, at one party."""

    job: Job
    prepared: Prepared
    cut: CutPoint
    data: PartyData
    train: Batches
    test: Batches

    @property
    def labelled(self) -> bool:
        """Whether this party has the labels."""
        return self.job.labels == "edge"


def plan_party(options: JobOptions, party: int, data: PartyData, group: str = "") -> PartyPlan:
    """Build and cut a party's model, and describe its job.

    Args:
        options: of the command line.
        party: which one, from 0.
        data: aligned.
        group: what the parties agreed to be called.

    Raises:
        TandemError: anything that is wrong with the options.
    """
    job = Job(
        workload=WORKLOAD,
        model="din",
        num_classes=2,
        input_shape=(data.own.stop - data.own.start + 1, 1 + SLOTS),
        cut=0,
        cut_name="",
        splits=-1,
        split_index=-1,
        graph_digest="",
        weights_digest="",
        batch_size=options.batch_size,
        epochs=options.epochs,
        optim=options.optim,
        learning_rate=options.lr,
        seed=options.seed,
        stale_it=options.staleness,
        dropout=0.0,
        compress_up=options.codecs[0],
        compress_down=options.codecs[1],
        samples=len(data.train.labels),
        vocabulary=len(data.clicks.genres),
        labels="edge" if options.owner == party else "elsewhere",
        group=group,
        party=party,
        parties=options.parties,
    )
    prepared = prepare(lambda: build_bottom(job), job.input_shape, job.seed)
    cut = _choose_cut(prepared, options.cut)
    changes = {
        "cut": cut.index,
        "cut_name": cut.name,
        "graph_digest": prepared.graph.digest,
        "weights_digest": prepared.weights_digest,
    }
    batches = [
        Batches(split, data, options.batch_size, options.seed, training)
        for split, training in ((data.train, True), (data.test, False))
    ]
    return PartyPlan(msgspec.structs.replace(job, **changes), prepared, cut, data, *batches)


def _choose_cut(prepared: Prepared, name: str) -> CutPoint:
    graph = prepared.graph
    cut = find_cut(graph, name) if name else graph.points[-1]
    raw = {leaf for training in (True, False) for leaf in graph.crossing(0, training=training)}
    if any(leaf in raw or not leaf.dtype.is_floating_point for leaf in graph.crossing(cut.index, training=True)):
        raise UsageError(f"--cut {name}: what users have seen would cross; the cut must be behind the embeddings")
    return cut
