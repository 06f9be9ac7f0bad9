"""A small classifier at the cut, by whose loss the head trains without gradients from the cloud.

Decoupled greedy learning (Belilovsky, Eickenberg and Oyallon, ICML 2020) gives each part of a network its own loss;
Han, Bhatti, Lee and Moon (2021) train the client's side of a split network so. Behind the cut stands as little as can
be: the mean over places (of an image) or over time (of a text), and a linear layer.

Shapes: B samples, C channels, H height, W width, T time, D features.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common.errors import UsageError
from common.partition.graph import Graph
from common.training.exchange import Objective
from common.training.optimizers import Preset, Updater
from common.training.part_state import State, optimizer_state, put_values, state_of_part
from common.training.randomness import one_at_a_time
from common.wire.structs import Job

_PREFIX = "auxiliary:"
"""Of its parameters' names in the head's state: no module's name has a colon."""


class _Classifier(nn.Module):
    """Means of the tensors that cross, side by side, and a linear layer.

    Args:
        which: indices of the tensors.
        features: of all of them together.
        num_classes: width of the output.
    """

    def __init__(self, which: Sequence[int], features: int, num_classes: int) -> None:
        super().__init__()
        self._which = tuple(which)
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """Map tensors (B, ...) to logits (B, classes)."""
        logits: Tensor = self.classifier(torch.cat([pooled(tensors[i]) for i in self._which], 1))
        return logits


def pooled(values: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C); (B, T, D) -> (B, D); (B, D) and (B,) have no places to take a mean over."""
    if values.dim() > 3:
        return values.flatten(2).mean(2)
    return values.mean(1) if values.dim() == 3 else values.reshape(len(values), -1)


class Auxiliary:
    """The classifier with its optimizer, and when the cloud's gradient is taken instead of its own.

    Args:
        classifier: from what crosses to logits.
        updater: of its parameters.
        objective: loss of logits and labels.
        align_every: every so many steps the cloud's gradient is taken; 0 for never.
    """

    def __init__(self, classifier: nn.Module, updater: Updater, objective: Objective, align_every: int) -> None:
        self._classifier, self._updater, self._objective = classifier, updater, objective
        self._align_every = align_every

    def aligns(self, step: int) -> bool:
        """Whether a step takes the cloud's gradient: the last of each ``align_every``."""
        return self._align_every > 0 and (step + 1) % self._align_every == 0

    def learn(self, outputs: Sequence[Tensor], labels: Tensor, epoch: int) -> None:
        """Train the classifier on a batch; the gradients of the head's parameters are left in them.

        Args:
            outputs: of the head, with their graph.
            labels: (B,) integer classes.
            epoch: of the batch.
        """
        with torch.enable_grad():
            loss, _ = self._objective(self._classifier(outputs), labels.to(outputs[0].device))
        loss.backward()  # type: ignore[no-untyped-call]
        self._updater.apply(epoch)

    def state(self) -> State:
        """Its parameters and its optimizer's state."""
        own = state_of_part(self._classifier, self._updater)
        return {(_PREFIX + name, slot): value for (name, slot), value in own.items()}


def make_auxiliary(
    graph: Graph, job: Job, objective: Objective, preset: Preset, device: str, state: Mapping[tuple[str, str], Tensor]
) -> Auxiliary:
    """The classifier of a job, with first weights from its seed, or with those of the head's ``state``.

    Raises:
        UsageError: nothing of the head would learn from it.
    """
    wanted = graph.gradients_wanted(job.cut)
    leaves = graph.crossing(job.cut, training=True)
    if graph.data_dependent or job.cut == len(graph.points) - 1 or not any(wanted):
        reason = (
            "what crosses depends on the data in this model"
            if graph.data_dependent
            else "with all of the model on the edge its loss is local as it is"
            if any(wanted)
            else "the head has nothing to train at this cut"
        )
        raise UsageError(f"--gradients local: {reason}; use --gradients cloud, or cut elsewhere")
    batch = graph.crossing(0, training=True)[0].shape[0]
    which = [i for i, yes in enumerate(wanted) if yes and leaves[i].shape[:1] == (batch,)]
    if not which:
        raise UsageError("--gradients local: no tensor of this cut has the samples first; cut elsewhere")
    features = sum(pooled(torch.empty(leaves[i].shape, device="meta")).shape[1] for i in which)
    with one_at_a_time, torch.random.fork_rng():
        torch.manual_seed(job.seed)
        classifier = _Classifier(which, features, job.num_classes)
    own = {(name.removeprefix(_PREFIX), slot): v for (name, slot), v in state.items() if name.startswith(_PREFIX)}
    if own:
        put_values(classifier, own)
    classifier.to(device)
    updater = Updater(preset, classifier, job.learning_rate)
    updater.load_state(optimizer_state(own))
    return Auxiliary(classifier, updater, objective, job.align_every)
