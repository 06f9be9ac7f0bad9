"""Recorded models, split: they give what they give whole, gradients and buffers too, at every cut."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.partition.liveness import positions
from common.partition.recording import record, recorded_parts
from common.partition.recording.inputs import fresh_copy
from common.partition.recording.nested import reachable_tensors
from common.partition.steps import state_of

Run = tuple[Any, list[Tensor | None], list[Tensor], Tensor]


def randomised(model: nn.Module) -> nn.Module:
    """Weights as after training: the initial zeros of some layers hide errors."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn(each.shape, generator=generator) * 0.1)
    return model


def one_run(
    model: nn.Module, modules: Sequence[nn.Module], args: Sequence[Any], kwargs: dict[str, Any], training: bool
) -> Run:
    """Outputs, gradients, buffers and the state of random numbers; buffers are put back."""
    args, kwargs = fresh_copy(args, kwargs)
    for module in (model, *modules):
        module.train(training)
    model.zero_grad()
    buffers = [each.clone() for each in model.buffers()]
    torch.manual_seed(5)
    with torch.set_grad_enabled(training):
        values = modules[0](*args, **kwargs)
        for module in modules[1:]:
            values = module(*values)
    state = torch.get_rng_state()
    if training:
        losses = [each.sum() * (i + 1) for i, each in enumerate(reachable_tensors(values, set())) if each.requires_grad]
        torch.autograd.backward(losses)
    found = {name: each for module in modules for name, each in module.named_buffers()}
    after = [found[name].clone() for name, _ in model.named_buffers()]
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
    return values, [None if each.grad is None else each.grad.clone() for each in model.parameters()], after, state


def assert_same(expected: Run, given: Run) -> None:
    assert type(expected[0]) is type(given[0])
    for a, b in zip(reachable_tensors(expected[0], set()), reachable_tensors(given[0], set()), strict=True):
        assert torch.equal(a, b)
    for c, d in zip(expected[1], given[1], strict=True):
        assert (c is None) == (d is None)
        if c is not None and d is not None:
            torch.testing.assert_close(c, d, rtol=1e-5, atol=1e-6 * float(c.abs().max()))
    assert all(map(torch.equal, expected[2], given[2]))
    assert torch.equal(expected[3], given[3])


def check_cuts(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    training: bool = False,
    others: Sequence[tuple[Sequence[Any], dict[str, Any]]] = (),
    most: int = 100,
) -> int:
    """Run the parts of all cuts, or of so many; returns how many."""
    kwargs = kwargs or {}
    recording = record(model, args, kwargs, training=training)
    befores = [position.before for position in positions(recording.steps)]
    chosen = befores[:: -(-len(befores) // most)]
    for run_args, run_kwargs in [(args, kwargs), *others]:
        expected = one_run(model, [model], run_args, run_kwargs, training)
        for before in chosen:
            parts = recorded_parts(model, {training: [recording]}, {training: [before]})
            names = [set(state_of(part)) for part in parts]
            assert names[0] | names[1] == set(state_of(model))
            assert_same(expected, one_run(model, parts, run_args, run_kwargs, training))
        if len(chosen) > 2:
            bounds = [chosen[len(chosen) // 3], chosen[-1]]
            parts = recorded_parts(model, {training: [recording]}, {training: bounds})
            assert_same(expected, one_run(model, parts, run_args, run_kwargs, training))
    return len(chosen)


class Experts(nn.Module):
    """A mixture of experts: which of them run depends on the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        x = self.inner(x)
        weights, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(chosen == number)
            if len(token):
                out.index_add_(0, token, expert(x[token]) * weights[token, place, None])
        return out.exp_()


class Dropped(nn.Module):
    """Leaves layers out at random."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            if not (self.training and torch.rand(()) < 0.5):
                x = layer(x).tanh()
        return self.last(x)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.recurrent = nn.LSTM(4, 5, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(10, 3)

    def forward(self, words: Tensor, lengths: list[int] | None = None, *, scale: float = 1.0) -> dict[str, Tensor]:
        hidden, (state, _) = self.recurrent(self.embedding(words))
        return {"logits": self.last(hidden.mean(1)) * scale, "state": state}


class Rounded(torch.autograd.Function):
    """Has a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3


class Mixed(nn.Module):
    """One of each: in-place writes, views, numbers, weights used early and late, dropout, an autograd function."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.table = nn.Parameter(torch.rand(10, 6))
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("seen", torch.zeros(6))
        self.last = nn.Linear(6, 6)
        self.last.weight = nn.Parameter(self.last.weight.detach().clone())

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        bias = self.table[[0, 3, 5]].sum(0)  # used behind most cuts, but of weights alone
        y = self.first(x)
        y[:, :2] *= 2
        with torch.no_grad():
            self.seen = self.seen * 0.9 + y.mean(0)
        top = y.detach().max(dim=1)
        y = Rounded.apply(y)  # type: ignore[no-untyped-call]
        y = nn.functional.dropout(nn.functional.relu(self.norm(y), inplace=True), 0.3, self.training)
        a, b = y.chunk(2, dim=1)
        z = torch.cat([b, a], dim=1).t().contiguous().t()
        if z.is_contiguous() or float(top.values.sum()) > 1e9:
            z = z * 2
        z = z + bias + top.indices.unsqueeze_(1) * 0.01
        return self.last(z), {"sizes": [*z.shape], "most": z.argmax().item(), "rows": list(z.unbind())[:1]}


class Packed(nn.Module):
    """Sequences of several lengths, and a norm that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.norm = nn.BatchNorm1d(4)
        self.recurrent = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        for _ in range(2):
            x = self.norm(self.first(x).transpose(1, 2)).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)


_WORDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
_MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "experts": (Experts, (torch.rand(12, 4, generator=torch.Generator().manual_seed(2)) * 4,)),
    "words": (Words, (_WORDS, [3, 3])),
    "packed": (Packed, (torch.rand(3, 6, 4), torch.tensor([6, 2, 4]))),
    "mixed": (Mixed, (torch.rand(5, 4),)),
    "attention": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2),
        (torch.rand(2, 3, 8),),
    ),
}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", _MODELS)
@pytest.mark.slow
def test_every_cut_gives_what_the_model_gives(name: str, training: bool) -> None:
    build, args = _MODELS[name]
    assert check_cuts(randomised(build()), args, training=training) > 2


@pytest.mark.slow
def test_layers_left_out_at_random() -> None:
    model = randomised(Dropped())
    x = torch.rand(3, 4)
    recording = record(model, (x,), {}, training=True)
    first = [step.name for step in recording.steps].index("rand")
    (head, tail) = recorded_parts(model, {True: [recording]}, {True: [first]})
    model.train()
    for seed in range(8):
        torch.manual_seed(seed)
        expected = model(x)
        torch.manual_seed(seed)
        assert torch.equal(expected, tail(*head(x)))


def test_other_batch_sizes_need_no_other_recording() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert check_cuts(model, (torch.rand(3, 4),), others=[((torch.rand(7, 4),), {})]) == 4


class Many(nn.Module):
    """Takes any number of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, items: list[Tensor]) -> Any:
        total = torch.stack([self.each(item).relu() for item in items]).sum(0)
        return self.last(total).exp()


@pytest.mark.parametrize("training", [False, True])
def test_another_number_of_inputs_crosses_with_all_that_may_be_needed(training: bool) -> None:
    model = Many()
    two, three = [torch.rand(2, 4) for _ in range(2)], [torch.rand(2, 4) for _ in range(3)]
    recording = record(model, (two,), {}, training=training)
    names = [step.name for step in recording.steps]
    expected = one_run(model, [model], (three,), {}, training)
    for step in ("input_1", "stack", "sum", "linear_2", "exp"):
        parts = recorded_parts(model, {training: [recording]}, {training: [names.index(step) + 1]})
        assert_same(expected, one_run(model, parts, (three,), {}, training))


def test_what_only_autograd_keeps_does_not_cross() -> None:
    model = nn.Sequential(Many(), nn.Linear(2, 2))
    two, three = [torch.rand(2, 4) for _ in range(2)], [torch.rand(2, 4) for _ in range(3)]
    recording = record(model, (two,), {}, training=True)
    before = [step.name for step in recording.steps].index("exp") + 1
    head, _ = recorded_parts(model.train(), {True: [recording]}, {True: [before]})
    assert len(head(two)) == 2
    assert len(head(three)) == 3 + 1 + 1
