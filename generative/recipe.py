"""Generation of chairs as a recipe: model, data and loss; and the job of a command line."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from common.datasets.batches import Batches
from common.datasets.poses import PoseSet
from common.datasets.renders import CHAIRS_PREFIX, OBJECTS_PREFIX, load_chairs, load_objects
from common.datasets.shapes import make_shapes
from common.errors import JobRefused, UsageError
from common.models.chairs import POSE, Chairs, Form
from common.training.opening import Recipe
from common.training.prepare import prepare
from common.training.score import UNCOUNTED
from common.wire.structs import Job
from discriminative.recipe import Plan, choose_cut
from generative.options import GeneratorOptions
from generative.samples import Samples

WORKLOAD = "generative"
_DEFAULT_INDEX = 5
_MASK = 0.1  # of the mask's part in the loss, as published


def objective(outputs: Any, labels: Tensor) -> tuple[Tensor, int]:
    """Mean squared error of images (B, 3, S, S), and a tenth of the cross-entropy of their masks.

    A mask is the sigmoid of an image, of the target's as well, as published. There are no right answers to count.
    """
    image = functional.mse_loss(outputs, labels)
    mask = functional.binary_cross_entropy_with_logits(outputs, labels.sigmoid())
    return image + _MASK * mask, UNCOUNTED


def build(job: Job) -> nn.Module:
    """The generator that a job names."""
    if job.direction != "down" or job.input_shape != (POSE,) or job.vocabulary or job.frozen or job.weights:
        raise JobRefused(
            f"a generator takes {POSE} numbers of a pose, and its head is at the cloud; "
            "install the same version of Tandem on both machines"
        )
    return Chairs(job.num_classes, Form.named(job.model))


def make_recipe() -> Recipe:
    """The recipe of a server."""
    return Recipe(build, objective)


def load(name: str, image_size: int) -> PoseSet:
    """The data set of a name.

    Raises:
        UsageError: there is none of this name.
        DataError: it is missing, damaged, or its files tell no poses.
    """
    if name.startswith(CHAIRS_PREFIX):
        return load_chairs(name, image_size, progress=True)
    if name.startswith(OBJECTS_PREFIX):
        return load_objects(name, image_size, progress=True)
    if name != "shapes":
        raise UsageError(f"unknown --dataset {name!r}; it is shapes, {CHAIRS_PREFIX}PATH or {OBJECTS_PREFIX}PATH")
    return make_shapes(image_size)


def plan_job(options: GeneratorOptions) -> Plan:
    """Load the data, build and cut the model, and describe the job.

    Raises:
        TandemError: anything that is wrong with the options, before any network is touched.
    """
    options.check()
    data = load(options.dataset, options.image_size)
    chairs = options.num_chairs or data.objects
    if chairs < data.objects:
        raise UsageError(f"{data.name} shows {data.objects} chairs; --num_chairs {chairs} is fewer")
    form = options.form
    prepared = prepare(lambda: Chairs(chairs, form), (POSE,), options.seed)
    cut, splits, split_index = choose_cut(prepared.graph, options, form.name, _DEFAULT_INDEX)
    edge_only = cut.index == 0
    up, down = ("none", "none") if edge_only else options.codecs
    job = Job(
        workload=WORKLOAD,
        model=form.name,
        num_classes=chairs,
        input_shape=(POSE,),
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
        stale_it=0 if edge_only else options.staleness,
        dropout=0.0,
        compress_up=up,
        compress_down=down,
        samples=len(data.train.labels),
        labels="edge",
        direction="down",
        late_momentum=options.late_momentum,
    )
    late = options.stale_it != 0 and not edge_only
    train, test = (
        Batches(split, data, options.batch_size, options.seed, training, options.workers)
        for split, training in ((data.train, True), (data.test, False))
    )
    look = Samples(data, options.samples, options.batch_size) if options.samples else None
    return Plan(job, prepared, cut, data, train, test, objective, options.plateau(late=late), look)
