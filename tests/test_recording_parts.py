"""The parts of recorded models as modules: their weights and modes, and what they refuse."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.recording import record, recorded_parts
from common.partition.steps import state_of
from tests.test_recording_unsplit import Many, Mixed


def cut_in_two(model: nn.Module, step: str, *args: Any) -> list[nn.Module]:
    recording = record(model, args, {}, training=False)
    before = [each.name for each in recording.steps].index(step) + 1
    return recorded_parts(model.eval(), {False: [recording]}, {False: [before]})


def test_a_cut_within_a_loop_refuses_more_rounds() -> None:
    two, three = [torch.rand(2, 4) for _ in range(2)], [torch.rand(2, 4) for _ in range(3)]
    head, tail = cut_in_two(Many(), "relu_1", two)
    with pytest.raises(PartitionError, match=r"linear in each needs .* weights of another part"):
        tail(*head(three))


def test_weights_have_their_names_and_are_the_models_own() -> None:
    model = Mixed()
    head, tail = cut_in_two(model, "cat", torch.rand(5, 4))
    assert set(head.state_dict()) == {
        "first.weight",
        "first.bias",
        "seen",
        *(f"norm.{n}" for n in state_of(model.norm)),
    }
    assert set(tail.state_dict()) == {"table", "last.weight", "last.bias"}
    assert dict(tail.named_parameters())["table"] is model.table


def test_weights_of_a_constant_go_where_it_is_used() -> None:
    model = Mixed()
    head, tail = cut_in_two(model, "cat", torch.rand(5, 4))
    assert "table" not in dict(head.named_parameters())
    assert "table" in dict(tail.named_parameters())
    x = torch.rand(5, 4)
    assert torch.equal(tail(*head(x))[0], model(x)[0])


def test_tied_weights_are_in_each_part_that_needs_them() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    head, tail = cut_in_two(model, "relu", torch.rand(2, 4))
    assert list(head.state_dict()) == ["0.weight"]
    assert list(tail.state_dict()) == ["2.weight"]
    x = torch.rand(2, 4)
    assert torch.equal(tail(*head(x)), model(x))


def test_parts_can_be_copied_and_moved_and_given_other_weights() -> None:
    model = Mixed()
    x = torch.rand(5, 4)
    parts = cut_in_two(model, "cat", x)
    copies = copy.deepcopy(parts)
    expected = model(x)[0]
    other = Mixed().eval()
    for part in parts:
        part.load_state_dict({name: other.state_dict()[name] for name in part.state_dict()}, assign=True)
    assert torch.equal(parts[1](*parts[0](x))[0], other(x)[0])
    assert torch.equal(copies[1](*copies[0](x))[0], expected)
    doubles = [part.double() for part in copies]
    assert doubles[1](*doubles[0](x.double()))[0].dtype == torch.float64


def test_buffers_that_are_replaced_show_in_the_part() -> None:
    model = Mixed()
    x = torch.rand(5, 4)
    head, _ = cut_in_two(model, "cat", x)
    before = head.state_dict()["seen"].clone()
    head(x)
    first = head.state_dict()["seen"].clone()
    head(x)
    assert not torch.equal(first, before)
    assert not torch.equal(head.state_dict()["seen"], first)


def test_a_part_without_a_recording_of_its_mode_says_so() -> None:
    head, _ = cut_in_two(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "linear", torch.rand(2, 4))
    head.train()
    with pytest.raises(PartitionError, match="without a recording in training mode"):
        head(torch.rand(2, 4))


def test_the_stop_leaves_no_mode_behind() -> None:
    class Guarded(nn.Module):
        def forward(self, x: Tensor) -> Any:
            try:
                with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                    return x.exp().sin().cos()
            except Exception:  # noqa: BLE001  the stop must not be caught here
                return x

    head, tail = cut_in_two(Guarded(), "sin", torch.rand(2))
    x = torch.rand(2)
    values = head(x)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(tail(*values), x.exp().sin().cos())


def test_another_way_is_an_error_that_names_the_place() -> None:
    class Own(nn.Module):
        other = False

        def forward(self, x: Tensor) -> Any:
            return (x.cos() if self.other else x.sin()).exp()

    model = nn.Sequential(Own(), nn.Linear(2, 2))
    head, tail = cut_in_two(model, "exp", torch.rand(2))
    host: Any = tail._host
    host.model[0].other = True
    with pytest.raises(PartitionError, match=r"another way here than on the other side at call 0, cos in 0"):
        tail(*head(torch.rand(2)))


def test_other_numbers_are_an_error() -> None:
    class Counting(nn.Module):
        count = 0

        def forward(self, x: Tensor) -> Any:
            y = x.add(self.count).exp()
            self.count += 1
            return y.sin()

    head, tail = cut_in_two(Counting(), "exp", torch.rand(2))
    x = torch.rand(2)
    values = head(x)
    assert tail(*values).shape == (2,)
    head(x)
    with pytest.raises(PartitionError, match="given other sizes or positions"):
        tail(*head(x))


def test_a_cut_that_does_not_exist_is_refused() -> None:
    model = nn.ReLU()
    recording = record(model, (torch.rand(2),), {}, training=False)
    for befores in ([7], [0], [2, 1]):
        with pytest.raises(PartitionError, match=r"cannot be cut|ascending"):
            recorded_parts(model, {False: [recording]}, {False: befores})
