"""What a recording says of a model: steps, their order and dependencies, and that the model stays as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.partition.liveness import positions
from common.partition.recording import Recording, record
from common.partition.steps import Step, Trace


class Written(nn.Module):
    """A model that is given by its forward pass."""

    def __init__(self, forward: Callable[..., Any], **tensors: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self._forward = forward
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(self, *args, **kwargs)


def recorded(forward: Callable[..., Any], *args: Any, training: bool = False, **tensors: Tensor) -> Recording:
    return record(Written(forward, **tensors), args or (torch.rand(3, 4),), {}, training=training)


def named(recording: Recording) -> dict[str, Step]:
    return {step.name: step for step in recording.steps}


def test_steps_of_a_plain_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    recording: Trace = record(model, (torch.rand(3, 4),), {}, training=False)
    assert [step.name for step in recording.steps] == ["input", "linear", "relu", "linear_1", "output"]
    assert [step.takes for step in recording.steps] == [(), (0,), (1,), (2,), (3,)]
    assert [step.state for step in recording.steps[1:4]] == [("0.bias", "0.weight"), (), ("2.bias", "2.weight")]
    assert [step.modules for step in recording.steps[1:4]] == [("0",), ("1",), ("2",)]
    assert [step.layer for step in recording.steps[1:4]] == ["0", "1", "2"]
    assert recording.steps[1].label == "torch.nn.functional.linear(tensor, tensor, tensor) -> tensor"
    assert recording.steps[3].leaves[0].shape == (3, 2)
    assert [position.before for position in positions(recording.steps)] == [1, 2, 3, 4]


def test_questions_about_a_tensor_are_no_steps() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            assert len(x) == x.size(0) == x.shape[0]
            assert x.dim() == x.ndim
            assert (x.numel(), x.dtype, x.device.type) == (12, torch.float32, "cpu")
            assert x.is_floating_point() is not x.requires_grad
        return x + 1

    assert [step.name for step in recorded(forward).steps] == ["input", "add", "output"]


def test_answers_that_depend_on_elements_or_layout_are_steps() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return x * float(x[0, 0]) if bool((x > 0).all()) and x.is_contiguous() else x * x.stride(0)

    steps = named(recorded(forward))
    assert {"bool", "is_contiguous", "float"} <= steps.keys()
    assert not steps["bool"].leaves
    assert steps["bool"].crosses


def test_several_tensors_of_a_call_cross_apart() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        a, b = x.chunk(2, dim=1)
        return a + b.exp()

    recording = recorded(forward)
    steps = named(recording)
    assert steps["chunk"].leaves == ()
    assert steps["chunk_1"].continues
    assert steps["chunk_2"].continues
    live = {position.before: len(position.leaves) for position in positions(recording.steps)}
    assert live == {1: 1, 4: 2, 5: 2, 6: 1}


def test_what_is_made_of_weights_alone_is_constant() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        mask = torch.ones(3, 4).tril()
        scale = self.layer.weight.abs().mean()
        noise = torch.rand(4)
        count = torch.zeros(4)
        count.add_(1)
        return x * mask * scale + noise + count + self.moving.add_(1) * 1

    recording = recorded(forward, moving=torch.zeros(4))
    constant = {step.name for step in recording.steps if step.constant}
    assert constant == {"ones", "tril", "abs", "mean"}


def test_writes_are_seen_also_where_they_leave_no_mark() -> None:
    model = nn.BatchNorm1d(4)
    recording = record(model, (torch.rand(3, 4),), {}, training=True)
    steps = named(recording)
    assert len(steps["batch_norm"].writes) == 2
    assert len(steps["add"].writes) == 1
    assert set(steps["batch_norm"].state) == {"weight", "bias", "running_mean", "running_var"}


def test_a_tensor_written_to_belongs_to_the_last_writer() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        out = torch.zeros(3, 4)
        out[:, 0] = self.layer(x)[:, 0]
        return out.exp()

    recording = recorded(forward, training=True)
    steps = named(recording)
    assert steps["exp"].takes == (list(steps).index("setitem"),)
    assert [leaf.differentiable for leaf in steps["setitem"].leaves] == [True]
    assert [leaf.differentiable for leaf in steps["zeros"].leaves] == [False]


def test_a_buffer_that_is_written_and_read_later_is_not_cut_between() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        self.count.add_(1)
        y = x.exp()
        return y * self.count

    recording = recorded(forward, count=torch.zeros(1))
    assert [position.before for position in positions(recording.steps)] == [1, 4]


def _through_numpy(self: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() * 2) + 1


def _by_constructor(self: Any, x: Tensor) -> Tensor:
    return x * nn.Parameter(x)


def _by_data(self: Any, x: Tensor) -> Tensor:
    y = x * 2
    y.data = x
    return y


def test_arrays_are_followed() -> None:
    assert [step.name for step in recorded(_through_numpy).steps] == ["input", "numpy", "from_numpy", "add", "output"]


@pytest.mark.parametrize(
    ("forward", "message"), [(_by_constructor, "mul takes a tensor of shape"), (_by_data, "exchanges the memory")]
)
def test_tensors_made_out_of_sight_are_refused(forward: Callable[..., Any], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        recorded(forward)


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    record(model, (torch.rand(3, 4),), {}, training=True)
    assert [each.training for each in model] == [True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(each) for each in model.modules())


def test_random_numbers_go_on_as_if_nothing_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    record(nn.Dropout(0.5), (torch.ones(4),), {}, training=True)
    assert torch.equal(torch.rand(2), expected)


def test_arguments_stay_as_they_were() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return self.layer(x.add_(1))

    x = torch.zeros(3, 4)
    recorded(forward, x)
    assert not x.any()


def test_walk_visits_every_step() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        a, b = self.layer(x).chunk(2, dim=1)
        return a * b

    recording = recorded(forward)
    visited: list[int] = []
    outputs = recording.walk((torch.rand(5, 4),), {}, visited.append)
    assert visited == list(range(len(recording.steps)))
    assert outputs.shape == (5, 2)


def test_walk_refuses_another_way() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return x.exp() if len(x) == 3 else x.sin()

    with pytest.raises(PartitionError, match="sin instead of exp"):
        recorded(forward).walk((torch.rand(2, 4),), {}, lambda _: None)


def test_the_journey_is_announced() -> None:
    recording = recorded(lambda self, x: self.layer(x).relu())
    (leaf,) = recording.extras(2)
    assert leaf.dtype == torch.uint8
    assert 20 < leaf.nbytes < 100
    assert recording.extras(3)[0].nbytes > leaf.nbytes


def test_a_model_that_fails_is_told() -> None:
    with pytest.raises(PartitionError, match="Linear fails on the example inputs"):
        record(nn.Linear(3, 3), (torch.rand(2, 4),), {}, training=False)


def test_the_same_steps_hold_for_other_weights() -> None:
    recording = recorded(lambda self, x: self.layer(x))
    other = Written(lambda self, x: self.layer(x))
    x = torch.rand(3, 4)
    assert torch.equal(recording.on(other).walk((x,), {}, lambda _: None), other(x))
