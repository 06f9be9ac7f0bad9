"""The tail that several parties share, as a module: the rest of each party's model, and the top that takes them all."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn

from common.errors import JobRefused, PartitionError
from common.training.ended import EndedRuns
from common.training.exchange import AS_IT_IS, Objective
from common.training.gathering import Comer
from common.training.joint import Joint
from common.training.meeting import Labels
from common.training.opening import Recipe
from common.training.part_state import State
from common.training.prepare import Prepared, updater_of
from common.training.randomness import one_at_a_time
from common.training.tail import Tail
from common.training.timed import busy_timer
from common.wire.structs import Job


class JointPart(nn.Module):
    """What is left of each party's model behind its cut, and the top, which takes all their outputs.

    Args:
        rests: of each party.
        counts: how many tensors come from each, in training and in evaluation.
        top: takes the outputs of the first party, then those of the second, and so on.
    """

    def __init__(self, rests: Sequence[nn.Module], counts: Sequence[dict[bool, int]], top: nn.Module) -> None:
        super().__init__()
        self.rests = nn.ModuleList(rests)
        self.top = top
        self._counts = counts

    def forward(self, *received: Tensor) -> Tensor:
        """The outputs for the tensors of all parties, one party after the other."""
        told: list[Tensor] = []
        begin = 0
        for rest, count in zip(self.rests, self._counts, strict=True):
            end = begin + count[self.training]
            outputs = rest(*received[begin:end])
            told += [outputs] if isinstance(outputs, Tensor) else outputs
            begin = end
        outputs = self.top(*told)
        if not isinstance(outputs, Tensor):
            raise PartitionError(f"the top of parties has one tensor of outputs, not a {type(outputs).__name__}")
        return outputs


def make_joint(
    parties: Sequence[tuple[Prepared, Job]],
    top: nn.Module,
    objective: Objective,
    *,
    device: str,
    state: State | None = None,
) -> Tail:
    """The tail that parties share; its codecs are those of the parties' own tails, which are made with it in common.

    Args:
        parties: the traced model of each, and its job.
        top: with its first weights.
        objective: loss and right answers.
        device: where it computes.
        state: of the part and its optimizer, where it is not the first one.
    """
    rests = [prepared.graph.parts(job.cut)[1] for prepared, job in parties]
    counts = [
        {training: len(prepared.graph.crossing(job.cut, training=training)) for training in (True, False)}
        for prepared, job in parties
    ]
    job = parties[0][1]
    part = JointPart(rests, counts, top)
    return Tail(
        part,
        updater_of(part, job, device, state),
        AS_IT_IS,
        AS_IT_IS,
        objective=objective,
        example=(),
        evaluation_example=(),
        example_size=1,
        most_bytes=0,
        batch_size=job.batch_size,
        num_classes=job.num_classes,
        labels_here=False,
        seed=job.seed,
        device=device,
    )


def drawn(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module with the seed's weights; torch's own random state stays as it was."""
    with one_at_a_time, torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def joint_maker(
    recipes: Mapping[str, Recipe],
    device: str,
    turns: AbstractContextManager[object],
    labels: Labels | None,
    ended: EndedRuns,
) -> Callable[[list[Comer], State | None], Joint]:
    """Makes the tail of several parties' runs."""

    def make(comers: list[Comer], state: State | None) -> Joint:
        job = comers[0].job
        recipe = recipes[job.workload]
        if recipe.top is None:
            raise JobRefused(f"{job.workload} is no workload of several parties")
        top = drawn(partial(recipe.top, job), job.seed)
        parties = [(each.prepared, each.job) for each in comers]
        owner = next((each.job.party for each in comers if each.job.labels == "edge"), None)
        judge = None
        if owner is None:
            if labels is None:
                raise JobRefused("no party has the labels, and this server has none; start it with --dataset_path")
            judge = labels.of(job)
        objective = recipe.objective if judge is None else judge.objective
        tail = make_joint(parties, top, objective, device=device, state=state)
        at_end = partial(ended.add, job.group)
        return Joint(tail, job.parties, owner, busy_timer(device), judge=judge, turns=turns, at_end=at_end)

    return make
