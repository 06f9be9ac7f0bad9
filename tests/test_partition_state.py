"""Weights of the two sides: the model's own names, divided, joined, and loaded where they are used."""

import copy
import gc
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.errors import PartitionError
from common.models import build_model
from common.partition import trace
from common.partition.state import divided, joined, load_own
from tests.test_partition import Mixed, randomise

X = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return randomise(Mixed()).eval()


@pytest.mark.parametrize("cuts", [["norm"], ["input"], ["conv", "cat"], ["out"]])
def test_a_state_is_divided_and_joined_without_renaming(model: nn.Module, cuts: list[str]) -> None:
    parts = trace(model, (X,)).chain(cuts)
    state = {name: value.clone() for name, value in randomise(Mixed()).state_dict().items()}

    shares = divided(state, parts)
    for part, share in zip(parts, shares, strict=True):
        part.load_state_dict(share)

    assert sum(map(len, shares)) == len(state)
    whole = joined([part.state_dict() for part in parts], list(state))
    assert list(whole) == list(state)
    assert all(torch.equal(whole[name], state[name]) for name in state)


def test_a_state_of_another_model_is_refused(model: nn.Module) -> None:
    parts = trace(model, (X,)).parts("norm")
    states = [part.state_dict() for part in parts]
    names = list(model.state_dict())

    with pytest.raises(PartitionError, match=r"the state has no conv\.bias, conv\.weight, norm\.bias and 4 more"):
        divided({}, parts)
    with pytest.raises(PartitionError, match=r"no part has conv\.bias, conv\.weight, norm\.bias and 4 more"):
        joined(states[1:], names)
    with pytest.raises(PartitionError, match=r"the model has no other; a part is of another model"):
        joined([*states, {"other": torch.ones(1)}], names)
    with pytest.raises(PartitionError, match=r"two parts have different values of gain"):
        joined([*states, {"gain": torch.zeros(8, 1, 1)}], names)


def test_each_side_holds_its_own_weights_only() -> None:
    model = build_model("resnet20")
    head, tail = trace(model, (X,)).parts("features.4")
    kept = {id(each) for each in head.parameters()}
    weights = [(id(each), weakref.ref(each)) for each in model.parameters()]

    del model, tail
    gc.collect()

    assert {key for key, each in weights if each() is not None} == kept
    assert 0 < len(kept) < len(weights)


def test_a_graph_can_forget_its_weights() -> None:
    model = build_model("resnet20")
    graph = trace(model, (X,))
    head, _ = graph.parts("features.4")
    weights = [weakref.ref(each) for each in model.parameters()]

    graph.forget_weights()
    del model, _
    gc.collect()

    assert len([each for each in weights if each() is not None]) == len(list(head.parameters()))
    assert all(each.is_meta for part in graph.parts("features.4") for each in part.parameters())


def test_a_part_on_the_meta_device_loads_its_own_from_the_whole_models_file(model: nn.Module, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        bare = Mixed()

    graph = trace(bare, (X,))
    head, tail = graph.parts("cat")
    for part in (head, tail):
        load_own(part.eval(), tmp_path / "model.safetensors")

    assert graph.digest == trace(model, (X,)).digest
    assert not any(each.is_meta for part in (head, tail) for each in part.state_dict().values())
    assert torch.equal(tail(*head(X)), model(X))


def test_files_that_do_not_fit_are_refused(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    head, _ = trace(model, (X,)).parts("norm")

    with pytest.raises(PartitionError, match="cannot be loaded: No such file"):
        load_own(head, path)
    path.write_bytes(b"no tensors")
    with pytest.raises(PartitionError, match="cannot be loaded"):
        load_own(head, path)
    save_file({"conv.weight": torch.ones(1)}, path)
    with pytest.raises(PartitionError, match=r"has no conv\.bias, norm\.bias, norm\.num_batches_tracked and 3 more"):
        load_own(head, path)
    save_file(model.state_dict() | {"conv.bias": torch.ones(3)}, path)
    with pytest.raises(PartitionError, match=r"conv\.bias is 3; the model has 8"):
        load_own(head, path)


class Computed(nn.Module):
    """A table that is made with the model and saved nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x) + self.table
        return out


def test_what_no_file_holds_is_told(tmp_path: Path) -> None:
    save_file(Computed().state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        bare = Computed()
    head, _ = trace(bare, (torch.ones(2, 4),)).parts(-1 + len(trace(bare, (torch.ones(2, 4),)).points))

    with pytest.raises(PartitionError, match="no file holds table, which the model computes when it is built"):
        load_own(head, tmp_path / "model.safetensors")


def test_parts_are_moved_copied_and_cast_as_the_model_is(model: nn.Module) -> None:
    x = X.double()
    head, tail = (part.eval() for part in trace(model, (X,)).parts("cat"))
    copies = [copy.deepcopy(part) for part in (head, tail)]
    expected = model(X)

    twice = copy.deepcopy(model).double()
    doubled = [copy.deepcopy(part).double() for part in (head, tail)]
    with torch.no_grad():
        for each in model.parameters():
            each.zero_()

    assert torch.equal(copies[1](*copies[0](X)), expected)
    assert torch.equal(doubled[1](*doubled[0](x)), twice(x))
    assert not torch.equal(tail(*head(X)), expected)


@pytest.mark.parametrize("training", [False, True])
def test_autocast_reaches_into_the_parts(model: nn.Module, training: bool) -> None:
    model.train(training)
    parts = [part.train(training) for part in trace(model, (X,)).parts("cat")]

    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(5)
        expected = copy.deepcopy(model)(X)
        torch.manual_seed(5)
        out = parts[1](*parts[0](X))

    assert out.dtype is torch.bfloat16
    assert torch.equal(out, expected)


class MakesTensors(nn.Module):
    """Makes a tensor on a device that the code names; and branches, so that only torch.export can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 3:
            x = x * torch.arange(4.0, device=x.device)
        out: torch.Tensor = self.layer(x).relu() * torch.arange(4.0, device=x.device)
        return out


@pytest.mark.slow
def test_tensors_that_an_exported_part_makes_follow_it_to_another_device() -> None:
    x = torch.ones(2, 4)
    graph = trace(MakesTensors(), (x,))

    parts = [copy.deepcopy(part).to("meta").eval() for part in graph.parts("layer")]
    out = parts[1](*parts[0](x.to("meta")))

    assert graph.front_end == "torch.export"
    assert out.device.type == "meta"
