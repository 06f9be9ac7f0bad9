"""Image classification as a recipe: model, data, loss and metric; and the job of a command line."""

import logging
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from common.codec.grammar import parse_spec
from common.datasets.batches import Batches
from common.datasets.images import DataSet
from common.datasets.registry import load_dataset
from common.errors import JobRefused, PartitionError, UsageError
from common.models.own import OWN_PREFIX, choose_model
from common.models.registry import Choice, choose
from common.partition.graph import Graph
from common.partition.points import CutPoint
from common.training.prepare import Prepared, prepare
from common.training.serve import Recipe
from common.wire.messages import Job
from discriminative.options import JobOptions

log = logging.getLogger(__name__)

WORKLOAD = "discriminative"


def objective(outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy of logits (B, classes), and the number of right answers."""
    return nn.functional.cross_entropy(outputs, labels), int((outputs.argmax(1) == labels).sum())


def make_recipe(chosen: Choice | None = None) -> Recipe:
    """The recipe of a server that serves one chosen model only, or all that have a name.

    What a job names is looked up among the names that the project itself knows; it never loads a file.
    """

    def build(job: Job) -> nn.Module:
        if chosen is None and job.model.startswith(OWN_PREFIX):
            raise JobRefused(
                f"the client trains a model of its own, {job.model}: start the server with the same file, "
                f"--model path/to/file.py:{job.model.removeprefix(OWN_PREFIX)}"
            )
        model = chosen or choose(job.model)
        if job.input_shape != model.input_shape:  # what a job costs is this server's to say, not the client's
            raise JobRefused(
                f"samples of {job.model} have shape {model.input_shape} here, at the client {job.input_shape}; "
                "install the same version of Tandem on both machines"
            )
        return model.build(job.num_classes, dropout=job.dropout)

    return Recipe(build, objective)


@dataclass(frozen=True)
class Plan:
    """All that a command line stands for."""

    job: Job
    prepared: Prepared
    cut: CutPoint
    data: DataSet
    train: Batches
    test: Batches

    @property
    def edge_only(self) -> bool:
        """Whether the whole model is in the head."""
        return self.cut.index == len(self.prepared.graph.points) - 1


def plan_job(options: JobOptions) -> Plan:
    """Load the data, build and cut the model, and describe the job.

    Raises:
        TandemError: anything that is wrong with the options, before any network is touched.
    """
    options.check()
    model = choose_model(options.model)
    data = load_dataset(
        options.dataset,
        options.data_path,
        num_classes=options.num_classes,
        input_shape=model.input_shape,
        seed=options.seed,
    )
    prepared = prepare(
        lambda: model.build(options.num_classes, dropout=options.dropout), model.input_shape, options.seed
    )
    for refusal in prepared.graph.report:
        log.info("%s is traced by %s; not by %s", model.name, prepared.graph.front_end, refusal)
    cut, splits, split_index = _choose_cut(prepared.graph, options)
    edge_only = cut.index == len(prepared.graph.points) - 1
    up, down = ("none", "none") if edge_only else options.codecs
    _check_repeats(up, data)
    job = Job(
        workload=WORKLOAD,
        model=model.name,
        num_classes=options.num_classes,
        input_shape=model.input_shape,
        cut=cut.index,
        cut_name=cut.name,
        splits=splits,
        split_index=split_index,
        graph_digest=prepared.graph.digest,
        weights_digest=prepared.weights_digest,
        batch_size=options.batch_size,
        epochs=options.epochs,
        optim=options.optim,
        learning_rate=options.lr,
        seed=options.seed,
        # With all of the model on the edge nothing crosses: there is nothing to wait for or to compress.
        stale_it=0 if edge_only else options.stale_it,
        dropout=options.dropout,
        compress_up=up,
        compress_down=down,
        samples=len(data.train.labels),
    )
    train = Batches(data.train, data, options.batch_size, options.seed, True, options.workers)
    test = Batches(data.test, data, options.batch_size, options.seed, False, options.workers)
    return Plan(job, prepared, cut, data, train, test)


def _check_repeats(up: str, data: DataSet) -> None:
    """Raises UsageError where a codec compares samples with themselves that are never the same twice."""
    if parse_spec(up).memory == "delta" and data.augment:
        raise UsageError(
            f"--compress_up {up} sends what changed since a sample was seen last, and {data.name} is cropped and "
            f"mirrored at random, anew each time; use {up.replace('delta+', '')}, or images that are not augmented "
            "(npz:FILE)"
        )


def _choose_cut(graph: Graph, options: JobOptions) -> tuple[CutPoint, int, int]:
    """The cut point, and the slices it was chosen by (-1 where it was named)."""
    try:
        if options.cut:
            return _named_cut(graph, options.cut), -1, -1
        slices = graph.slices(options.splits or graph.blocks)
        splits = len(slices) - 1
        index = 1 if options.split_index is None else options.split_index
        if index > splits:
            raise UsageError(f"--split_index is {index}; {options.model} is in {splits} slices here")
        return graph.find(slices[index]), splits, index
    except PartitionError as error:
        raise UsageError(f"{options.model}: {error}") from None


def _named_cut(graph: Graph, cut: str) -> CutPoint:
    """By name; where nothing has that name, a number is an index (in a plain `nn.Sequential` numbers are names)."""
    try:
        return graph.find(cut)
    except PartitionError:
        if not cut.isdigit():
            raise
        return graph.find(int(cut))
