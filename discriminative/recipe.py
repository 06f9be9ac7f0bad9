"""Classification of images and texts as a recipe: model, data, loss and metric; and the job of a command line."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from common.codec.grammar import parse_spec
from common.datasets.batches import Batches, Data
from common.datasets.registry import load_dataset, load_texts
from common.errors import JobRefused, PartitionError, UsageError
from common.models.first_weights import FirstWeights, first_weights
from common.models.own import OWN_PREFIX, choose_model
from common.models.registry import Choice, choose
from common.partition.graph import Graph
from common.partition.points import CutPoint
from common.training.exchange import Objective
from common.training.moving import find_cut
from common.training.opening import Recipe
from common.training.plateau import Plateau
from common.training.prepare import Prepared, prepare
from common.training.run_state import Look
from common.training.single import require_batch
from common.wire.structs import Job
from discriminative.building import Building, require_same_weights
from discriminative.options import JobOptions, RunOptions

log = logging.getLogger(__name__)

WORKLOAD = "discriminative"


def objective(outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
    """Mean cross-entropy of logits (B, classes), and the number of right answers."""
    return nn.functional.cross_entropy(outputs, labels), int((outputs.argmax(1) == labels).sum())


def make_recipe(chosen: Choice | None = None, weights: FirstWeights | None = None) -> Recipe:
    """The recipe of a server that serves one chosen model only, or all that have a name.

    What a job names is looked up among the names that the project itself knows; it never loads a file. Weights are
    those that the server was started with.

    Raises:
        UsageError: there are no such weights for the chosen model.
    """
    if chosen is not None and weights is not None:
        weights.label(chosen.name)  # better told now than to every client

    def build(job: Job) -> nn.Module:
        if chosen is None and job.model.startswith(OWN_PREFIX):
            raise JobRefused(
                f"the client trains a model of its own, {job.model}: start the server with the same file, "
                f"--model path/to/file.py:{job.model.removeprefix(OWN_PREFIX)}"
            )
        model = chosen or choose(job.model)
        # What a job costs is this server's to say, not the client's.
        asked, here = (job.input_shape, job.vocabulary), (model.input_shape, model.vocabulary)
        if asked != here:
            raise JobRefused(
                f"samples of {job.model} have shape {_form(*here)} here, at the client {_form(*asked)}; "
                "install the same version of Tandem on both machines"
            )
        require_same_weights(job, weights)
        return Building(model, job.num_classes, job.dropout, weights, job.frozen)()

    return Recipe(build, objective)


@dataclass(frozen=True)
class Plan:
    """All that a command line stands for."""

    job: Job
    prepared: Prepared
    cut: CutPoint
    data: Data
    train: Batches
    test: Batches
    objective: Objective
    plateau: Plateau | None = None
    """Whether and how the held-out loss lowers the learning rate."""
    look: Look | None = None
    """Shown the model behind each evaluation."""

    @property
    def edge_only(self) -> bool:
        """Whether the whole model is at the edge."""
        all_of_it = len(self.prepared.graph.points) - 1 if self.job.direction == "up" else 0
        return self.cut.index == all_of_it


def plan_job(options: JobOptions) -> Plan:
    """Load the data, build and cut the model, and describe the job.

    Raises:
        TandemError: anything that is wrong with the options, before any network is touched.
    """
    options.check()
    model = choose_model(options.model)
    data = _load(model, options)
    weights = first_weights(options.pretrained, options.weights)
    dropout = model.dropout if options.dropout is None else options.dropout
    building = Building(model, options.num_classes, dropout, weights)
    if options.freeze:
        bare = prepare(replace(building, weights=None), model.input_shape, options.seed)
        building = replace(building, frozen=_last_frozen(bare.graph, options))
    prepared = prepare(building, model.input_shape, options.seed)
    for refusal in prepared.graph.report:
        log.info("%s is traced by %s; not by %s", model.name, prepared.graph.front_end, refusal)
    require_batch(prepared.graph, model.input_shape, options.batch_size)
    cut, splits, split_index = choose_cut(prepared.graph, options, model.name)
    edge_only = cut.index == len(prepared.graph.points) - 1
    up, down = ("none", "none") if edge_only else options.codecs
    _check_repeats(up, data, cached=options.cache_activations)
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
        milestones=options.milestones,
        gamma=options.gamma,
        seed=options.seed,
        # With all of the model on the edge nothing crosses: there is nothing to wait for or to compress.
        stale_it=0 if edge_only else options.staleness,
        dropout=dropout,
        compress_up=up,
        compress_down=down,
        samples=len(data.train.labels),
        labels=options.labels,
        vocabulary=model.vocabulary,
        frozen=building.frozen,
        gradients=options.gradients,
        align_every=options.align_every,
        kept=len(data.train.labels) + len(data.test.labels) if options.cache_activations else 0,
        weights="" if weights is None else weights.label(model.name),
    )
    train = Batches(data.train, data, options.batch_size, options.seed, True, options.workers)
    test = Batches(data.test, data, options.batch_size, options.seed, False, options.workers)
    return Plan(job, prepared, cut, data, train, test, objective)


def _load(model: Choice, options: JobOptions) -> Data:
    """The data set of the command line, of what the model takes."""
    if model.vocabulary:
        return load_texts(
            options.dataset,
            options.data_path,
            num_classes=options.num_classes,
            length=model.input_shape[0],
            vocabulary=model.vocabulary,
            seed=options.seed,
        )
    images = load_dataset(
        options.dataset,
        options.data_path,
        num_classes=options.num_classes,
        input_shape=model.input_shape,
        seed=options.seed,
    )
    return images if options.augment else replace(images, augment=False)


def _form(shape: tuple[int, ...], vocabulary: int) -> str:
    return f"{shape} of {vocabulary} words" if vocabulary else str(shape)


def _last_frozen(graph: Graph, options: JobOptions) -> int:
    """The cut point behind the frozen slices."""
    try:
        slices = graph.slices(options.splits or graph.blocks)
    except PartitionError as error:
        raise UsageError(f"{options.model}: {error}") from None
    if options.freeze >= len(slices) - 1:
        raise UsageError(
            f"--freeze is {options.freeze}, but {options.model} is in {len(slices) - 1} slices here: nothing would be "
            "left to train"
        )
    return slices[options.freeze]


def _check_repeats(up: str, data: Data, *, cached: bool) -> None:
    """Raises UsageError where samples are never the same twice, and something relies on it."""
    if cached and data.augment:
        raise UsageError(
            f"--cache_activations keeps what the head makes of a sample, and {data.name} is cropped and mirrored at "
            "random, anew each time; use images that are not augmented (--no_augment), or leave it out"
        )
    if parse_spec(up).memory == "delta" and data.augment:
        raise UsageError(
            f"--compress_up {up} sends what changed since a sample was seen last, and {data.name} is cropped and "
            f"mirrored at random, anew each time; use {up.replace('delta+', '')}, or images that are not augmented "
            "(--no_augment)"
        )


def choose_cut(graph: Graph, options: RunOptions, model: str, default: int = 1) -> tuple[CutPoint, int, int]:
    """The cut point, and the slices it was chosen by (-1 where it was named).

    Raises:
        UsageError: there is no such cut.
    """
    try:
        if options.cut:
            return find_cut(graph, options.cut), -1, -1
        slices = graph.slices(options.splits or graph.blocks)
        splits = len(slices) - 1
        index = default if options.split_index is None else options.split_index
        if index > splits:
            raise UsageError(f"--split_index is {index}; {model} is in {splits} slices here")
        return graph.find(slices[index]), splits, index
    except PartitionError as error:
        raise UsageError(f"{model}: {error}") from None
