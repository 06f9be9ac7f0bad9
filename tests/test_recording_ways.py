"""Recorded models in parts that take other ways than in their recordings, and chains of parts."""

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.liveness import positions
from common.partition.recording import Recording, record, recorded_parts
from common.partition.recording.journey import packed
from tests.test_recording_unsplit import Experts, Many, assert_same, one_run, randomised
from tests.zoo.crossing import received, wired


def cut_behind(model: nn.Module, steps: Sequence[str], *args: Any, training: bool = False) -> list[nn.Module]:
    recording = record(model, args, {}, training=training)
    names = [each.name for each in recording.steps]
    parts = recorded_parts(model, {training: [recording]}, {training: [names.index(each) + 1 for each in steps]})
    for part in (model, *parts):
        part.train(training)
    return parts


def through(parts: Sequence[nn.Module], *args: Any) -> Any:
    values = parts[0](*args)
    for part in parts[1:]:
        values = part(*values)
    return values


class Turning(nn.Module):
    """Turns at its start and its end by the same angles, which are made of a buffer alone."""

    angles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("angles", torch.rand(4))
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        turn = self.angles.cos().to(x.dtype)  # the same tensor again
        x = self.layers[0](x) * turn
        return self.layers[2](self.layers[1](x).relu()) * turn


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_part_between_does_without_the_weights_of_a_constant(training: bool) -> None:
    model, x = Turning(), torch.rand(2, 4)
    parts = cut_behind(model, ["mul", "relu"], x, training=training)
    assert [set(dict(part.named_buffers())) for part in parts] == [{"angles"}, set(), {"angles"}]
    crossed = parts[1](*parts[0](x))
    assert len(crossed) == 2
    assert_same(one_run(model, [model], (x,), {}, training), one_run(model, parts, (x,), {}, training))


class Named(nn.Module):
    def forward(self, x: Tensor, scale: Tensor, cache: Any = None) -> Any:
        y = (x * 2).exp()
        return y * scale


def test_inputs_by_name_come_in_any_order() -> None:
    model = Named()
    x, scale, cache = torch.rand(2, 3), torch.rand(3), object()
    recording = record(model, (), {"scale": scale, "x": x, "cache": cache}, training=False)
    before = [each.name for each in recording.steps].index("exp") + 1
    head, tail = recorded_parts(model.eval(), {False: [recording]}, {False: [before]})
    head.local = {"cache": cache}  # type: ignore[assignment]
    for kwargs in ({"x": x, "scale": scale}, {"scale": scale, "x": x}, {"cache": cache, "x": x, "scale": scale}):
        crossed = head(**kwargs)
        assert len(crossed) == 3
        assert torch.equal(tail(*crossed), model(x, scale))
    recording.walk((), {"x": x, "scale": scale, "cache": cache}, lambda _: None)


def test_an_object_by_position_is_not_given_by_name() -> None:
    class Placed(nn.Module):
        def forward(self, x: Tensor, cache: Any) -> Any:
            return x.exp().sin() if cache else x

    model, x = Placed(), torch.rand(2)
    head, tail = cut_behind(model, ["exp"], x, {1})
    head.local = tail.local = {"1": {2}}  # type: ignore[assignment]
    assert torch.equal(tail(*head(x, {1})), model(x, {1}))


def test_sizes_of_journeys_are_estimated_by_few(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(nn.Module):
        def forward(self, x: Tensor) -> Any:
            for _ in range(400):
                x = x.sin()
            return x

    packings: list[int] = []

    def counted(*args: Any) -> Tensor:
        packings.append(1)
        return packed(*args)

    monkeypatch.setattr(sys.modules[Recording.__module__], "packed", counted)
    recording: Recording = record(Long(), (torch.rand(2),), {}, training=False)
    found = [recording.extras(each.before) for each in positions(recording.steps)]
    assert len(found) == 401
    assert len(packings) <= 33
    assert all(len(each) == 1 and each[0].dtype == torch.uint8 and len(each[0].shape) == 1 for each in found)
    sizes = [each[0].nbytes for each in found]
    assert 0 < sizes[0] < sizes[-1]


class Rounds(nn.Module):
    """As many rounds as there are different words; which weights a round takes is up to the word."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.tables = nn.ParameterList(torch.rand(3) for _ in range(4))
        self.register_buffer("seen", torch.zeros(()))
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor, words: Tensor) -> Any:
        x = self.first(x)
        whole = x + 1
        kept = whole[:, :2]
        for word in words.unique().tolist():  # type: ignore[no-untyped-call]
            x = x + (x * self.tables[word]).tanh()
        self.seen += 1
        kept += 2
        return self.last(x), whole


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("words", [[0], [2], [0, 1], [0, 2], [3], [0, 1, 2], [1, 3]])
def test_fewer_rounds_than_lie_before_the_cut(words: list[int], training: bool) -> None:
    model, x = Rounds(), torch.rand(2, 3)
    parts = cut_behind(model, ["tanh_2"], x, torch.arange(4), training=training)
    args = (x, torch.tensor(words))
    assert_same(one_run(model, [model], args, {}, training), one_run(model, parts, args, {}, training))
    parts = cut_behind(model, ["tanh", "mul_2", "tanh_3"], x, torch.arange(4), training=training)
    if words[0] == 0:  # else the first round takes weights that the last part lacks
        assert_same(one_run(model, [model], args, {}, training), one_run(model, parts, args, {}, training))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_experts_without_tokens(training: bool) -> None:
    model = randomised(Experts())
    x = torch.rand(12, 4) * 4
    recording = record(model, (x,), {}, training=training)
    befores = [each.before for each in positions(recording.steps)]
    for before in befores[:: len(befores) // 6]:
        parts = recorded_parts(model, {training: [recording]}, {training: [before]})
        for one in (x[:1], x[5:6]):  # two of the three experts have a token
            assert_same(one_run(model, [model], (one,), {}, training), one_run(model, parts, (one,), {}, training))


def test_a_model_that_ends_before_the_cut_leaves_nothing_to_the_tail() -> None:
    class Sometimes(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.exp().sin() if len(x) > 1 else (x.cos(), [x, 3])

    model = Sometimes()
    parts = cut_behind(model, ["exp"], torch.rand(2))
    for x in (torch.rand(1), torch.rand(2), torch.rand(1)):
        assert str(through(parts, x)) == str(model(x))
    parts = cut_behind(model, ["exp", "sin"], torch.rand(2))
    for x in (torch.rand(1), torch.rand(2), torch.rand(1)):
        assert str(through(parts, x)) == str(model(x))


def test_another_way_never_crosses_with_as_many_tensors_as_the_recorded() -> None:
    model = nn.Sequential(Many(), nn.Linear(2, 2))
    two, one = [torch.rand(2, 4) for _ in range(2)], [torch.rand(2, 4)]
    for step in ("stack", "sum", "exp", "linear_3"):
        head, tail = cut_behind(model, [step], two)
        assert len(head(two)) == 2
        assert len(head(one)) > 2
        assert torch.equal(tail(*head(one)), model(one))


def test_what_a_run_puts_into_a_buffer_of_another_part_is_gone_in_the_next() -> None:
    class Remembering(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x: Tensor) -> Any:
            y = x.sin()
            y = y.exp() if len(x) > 1 else y
            before, self.seen = self.seen, y.mean(0)
            return y * before

    model = Remembering()
    parts = cut_behind(model, ["exp"], torch.rand(2, 3))
    assert [len(dict(part.named_buffers())) for part in parts] == [0, 1]
    for rows in (1, 2, 1, 1, 2, 2):
        x = torch.rand(rows, 3)
        assert torch.equal(through(parts, x), model(x))


def test_a_view_that_only_served_to_write_does_not_cross() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Any:
            y = x.clone()
            y[:, 0] *= 2
            return y.sin()

    model, x = Scaled(), torch.rand(2, 3)
    head, tail = cut_behind(model, ["setitem"], x)
    assert len(head(x)) == 2
    assert torch.equal(tail(*head(x)), model(x))


class Written(nn.Module):
    """Writes to a view of what it returns, in as many rounds as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)

    def forward(self, x: Tensor, rounds: int) -> Any:
        whole = self.first(x)
        for _ in range(rounds):
            whole = whole + 1
        top = whole[:, :2]
        top *= 2
        return whole


def test_a_write_that_gradients_would_not_know_of_is_refused() -> None:
    model, x = Written(), torch.rand(2, 3)
    head, tail = cut_behind(model, ["getitem"], x, 2, training=True)
    assert_same(one_run(model, [model], (x, 1), {}, True), one_run(model, [head, tail], (x, 1), {}, True))
    crossed = head(x, 1)
    arrived = wired(crossed, [range(len(crossed))])
    values = [received(b.requires_grad_(a.requires_grad)) for a, b in zip(crossed, arrived, strict=True)]
    with pytest.raises(PartitionError, match="writes to a tensor that shares memory with another that crossed"):
        tail(*values)
    with torch.no_grad():
        assert torch.equal(tail(*wired(crossed, [range(len(crossed))])), model(x, 1))
