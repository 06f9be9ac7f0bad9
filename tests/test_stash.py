"""Weight stashing: gradients of the weights that a batch went forward with, applied to those of K steps later."""

import copy
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.datasets.batches import Batches
from common.datasets.registry import load_dataset
from common.errors import UsageError
from common.models import build_model
from common.models.registry import input_shape
from common.partition import trace
from common.training.digest import combined_digest, parameter_digests
from common.training.randomness import step_stream
from common.training.serve import Server
from common.training.stash import Stash
from discriminative.options import BaseOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process
from tests.test_equality import over_tcp
from tests.test_resume import Killed, folder_of, killed_at, losses, values

EPOCHS, BATCH_SIZE, SEED, LR = 2, 8, 3, 0.05
CPU = torch.device("cpu")


class Tied(nn.Module):
    """One matrix at both ends, and a buffer that each pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(5, 4, bias=False), nn.Linear(4, 5, bias=False)
        self.out.weight = nn.Parameter(self.into.weight.data.T)  # another parameter in the same memory
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(torch.relu_(self.norm(self.into(x))))
        return y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x.unsqueeze(1))[0]
        return y


PARTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
    ),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3)),
    "shared memory": Tied,
    "recurrent": Recurrent,
}


@pytest.mark.parametrize("name", PARTS)
def test_graphs_keep_the_weights_of_their_moment(name: str) -> None:
    torch.manual_seed(0)
    part = PARTS[name]()
    stash, batches = Stash(part), torch.randn(3, 4, 5)
    expected = []
    for x in batches:
        old = copy.deepcopy(part)
        expected.append(torch.autograd.grad(old(x).square().sum(), list(old.parameters())))
        with torch.no_grad():
            part(x)  # for what it does to buffers
        shrink(part)
    torch.manual_seed(0)
    part = PARTS[name]()
    stash = Stash(part)
    graphs = []
    for x in batches:
        with stash.kept():
            graphs.append(part(x))
        stash.renew()
        shrink(part)
    for graph, gradients in zip(graphs, expected, strict=True):
        found = torch.autograd.grad(graph.square().sum(), list(part.parameters()))
        assert all(map(torch.equal, found, gradients))


def shrink(part: nn.Module) -> None:
    """An update in place; tied weights once."""
    seen = set()
    with torch.no_grad():
        for each in part.parameters():
            if each.untyped_storage().data_ptr() not in seen:
                seen.add(each.untyped_storage().data_ptr())
                each.mul_(0.75)


def test_renewed_weights_share_memory_as_before() -> None:
    part = Tied()
    before = part.into.weight.data_ptr()
    Stash(part).renew()
    assert part.into.weight.data_ptr() == part.out.weight.data_ptr() != before
    assert part.out.weight.stride() == (1, 5)


def test_what_is_overwritten_is_told() -> None:
    class Counting(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("scale", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            self.scale += 1
            return x * self.weight * self.scale

    part = Counting()
    stash = Stash(part)
    with stash.kept():
        first = part(torch.ones(2, 3))
        part(torch.ones(2, 3))
    with pytest.raises(UsageError, match="--replay recompute"):
        first.sum().backward()


def train_delayed(images: str, model_name: str, cut: str, stale_it: int) -> tuple[list[tuple[int, float]], str]:
    """The reference: a copy of the head for each batch, its gradient applied to the head of K batches later."""
    torch.manual_seed(SEED)
    model = build_model(model_name, 10, dropout=0.3)
    shape = input_shape(model_name)
    head, tail = trace(model, (torch.rand(2, *shape),)).parts(cut)
    data = load_dataset(images, Path(), num_classes=10, input_shape=shape, seed=SEED)
    train = Batches(data.train, data, BATCH_SIZE, SEED, training=True)
    updates = {
        part: torch.optim.SGD(part.parameters(), LR, momentum=0.9, weight_decay=1e-4, nesterov=True)
        for part in (head, tail)
    }
    found: list[tuple[int, float]] = []
    pending: deque[tuple[nn.Module, tuple[Tensor, ...], list[Tensor]]] = deque()

    def apply() -> None:
        old, outputs, gradients = pending.popleft()
        torch.autograd.backward(outputs, gradients)
        for mine, its in zip(head.parameters(), old.parameters(), strict=True):
            mine.grad = its.grad
        updates[head].step()

    for epoch in range(EPOCHS):
        for batch in train.epoch(epoch):
            head.train()
            tail.train()
            old = copy.deepcopy(head)
            with step_stream(SEED, len(found), CPU) as stream:
                outputs = old(batch.inputs)
            for mine, its in zip(head.buffers(), old.buffers(), strict=True):
                mine.copy_(its)
            arrived = [each.detach().requires_grad_() for each in outputs]
            with step_stream(SEED, len(found), CPU, stream.drawn):
                loss = nn.functional.cross_entropy(tail(*arrived), batch.labels)
            updates[tail].zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            updates[tail].step()
            found.append((len(found), loss.item()))
            pending.append((old, outputs, [each.grad for each in arrived if each.grad is not None]))
            if len(pending) > stale_it:
                apply()
        while pending:
            apply()
    return found, combined_digest(parameter_digests(head), parameter_digests(tail))


def flags(images: str, run_dir: Path, **more: Any) -> dict[str, Any]:
    shared = {"dataset": images, "run_dir": run_dir, "seed": SEED, "epochs": EPOCHS, "batch_size": BATCH_SIZE}
    return {**shared, "dropout": 0.3, "lr": LR, "compress": "none", "threads": 1, "replay": "stash", **more}


def in_process(**values: Any) -> Finished:
    options = BaseOptions(**values)
    return train_in_process(plan_job(options), options)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "cut", "stale_it"), [("resnet20", "pooling", 3), ("VGG11", "classifier.1", 1)])
def test_stashed_training_is_that_of_delayed_gradients(
    images: str, tmp_path: Path, model: str, cut: str, stale_it: int
) -> None:
    run = in_process(**flags(images, tmp_path, model=model, cut=cut, stale_it=stale_it))
    assert (losses(run), run.summary["parameters_digest"]) == train_delayed(images, model, cut, stale_it)
    assert run.summary["replay"] == "stash"


@pytest.mark.slow
def test_where_weights_rest_both_replays_are_one(images: str, tmp_path: Path) -> None:
    still = flags(images, tmp_path, model="resnet20", cut="pooling", stale_it=2, lr=1e-30, optim="imdb")
    one, other = in_process(**still), in_process(**{**still, "replay": "recompute"})
    assert losses(one) == losses(other)
    assert one.summary["parameters_digest"] == other.summary["parameters_digest"]


@pytest.mark.slow
def test_without_staleness_both_replays_are_one(images: str, tmp_path: Path) -> None:
    serial = flags(images, tmp_path, model="resnet20", cut="features.4", stale_it=0)
    one, other = in_process(**serial), in_process(**{**serial, "replay": "recompute"})
    assert losses(one) == losses(other)
    assert one.summary["parameters_digest"] == other.summary["parameters_digest"]


@pytest.mark.slow
def test_over_tcp_the_stash_is_that_of_one_process(server: Server, images: str, tmp_path: Path) -> None:
    setting = flags(images, tmp_path, model="resnet20", cut="features.6", stale_it=3, use_EF=1, compress="int8")
    setting["compress_down"], setting["compress_up"], setting["compress"] = "fp16", "int8", ""
    one, other = over_tcp(server, **setting), in_process(**setting)
    assert losses(one) == losses(other)
    assert one.summary["parameters_digest"] == other.summary["parameters_digest"]


@pytest.mark.slow
def test_a_run_with_a_stash_goes_on(images: str, tmp_path: Path) -> None:
    setting = {"stale_it": 3, "compress": "none", "replay": "stash", "checkpoint_every": 2, "dropout": 0.2}
    alone = BaseOptions(**values(images, tmp_path / "alone", **setting))
    whole = train_in_process(plan_job(alone), alone)
    options = BaseOptions(**values(images, tmp_path / "killed", **setting))
    with pytest.MonkeyPatch.context() as patch:
        killed_at(6, patch)
        with pytest.raises(Killed):
            train_in_process(plan_job(options), options)
    again = BaseOptions(**values(images, tmp_path, resume=folder_of(tmp_path / "killed"), **setting))
    resumed = train_in_process(plan_job(again), again)
    assert losses(resumed) == losses(whole)
    assert resumed.summary["parameters_digest"] == whole.summary["parameters_digest"]
    rows = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["staleness"] for row in rows] == [1, 0, 1, 0] * 2  # nothing is under way at a checkpoint


def test_a_stash_is_not_for_weights_of_the_future() -> None:
    with pytest.raises(UsageError, match="choose one"):
        BaseOptions(lookahead=True, replay="stash").check()
