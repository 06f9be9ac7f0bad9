"""A chain of parts is the model: outputs, buffers and names, by any number of cuts; and the zoom levels of cuts."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from common.errors import PartitionError
from common.models import build_model
from common.partition import trace
from common.partition.graph import Graph
from tests.test_partition import EarlyRead, Mixed, Noisy, randomise


def built(name: str) -> tuple[nn.Module, Graph, Tensor]:
    torch.manual_seed(0)
    model = randomise(Mixed() if name == "mixed" else build_model(name))
    size = {"mixed": 8, "resnet20": 16}.get(name, 32)
    x = torch.randn(2, 3, size, size)
    return model, trace(model, (x,)), x


def through(parts: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Along the chain as over wires: what arrives is a copy of what was sent."""
    values: Sequence[Tensor] = (x,)
    for part in parts[:-1]:
        values = [each.clone() for each in part(*values)]
    out: Tensor = parts[-1](*values)
    return out


def spread(graph: Graph, parts: int, shift: int) -> list[int]:
    """The cuts between so many parts, not quite evenly."""
    last = len(graph.points) - 1
    return [min(last, last * i // parts + shift) for i in range(1, parts)]


CHAINS = [(parts, shift) for parts in (2, 3, 4, 5) for shift in (0, 1)]
MODELS = [
    "mixed",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("resnet20", "torchvision:googlenet", "torchvision:densenet121")
    ),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_chain_computes_the_model(name: str, training: bool) -> None:
    model, graph, x = built(name)
    model.train(training)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(7)
    with torch.no_grad():
        expected = model(x)
    after = {key: value.clone() for key, value in model.state_dict().items()}
    assert all(torch.equal(after[key], start[key]) for key in start) is not training

    for parts, shift in CHAINS:
        model.load_state_dict(start)
        chain = [part.train(training) for part in graph.chain(spread(graph, parts, shift))]
        torch.manual_seed(7)
        with torch.no_grad():
            assert torch.equal(through(chain, x), expected), (parts, shift)
        assert len(chain) == parts
        assert all(torch.equal(value, after[key]) for part in chain for key, value in part.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_names_of_the_parts_are_the_models_own(name: str) -> None:
    model, graph, _ = built(name)
    whole = model.state_dict()

    for parts, shift in CHAINS:
        states = [part.state_dict() for part in graph.chain(spread(graph, parts, shift))]

        assert sum(map(len, states)) == len(whole)
        assert {key for state in states for key in state} == whole.keys()
        assert all(value.data_ptr() == whole[key].data_ptr() for state in states for key, value in state.items())


def test_what_a_part_returns_is_what_its_cut_says() -> None:
    _, graph, x = built("mixed")
    cuts = spread(graph, 4, 0)

    values: Sequence[Tensor] = (x,)
    for cut, part in zip(cuts, graph.chain(cuts)[:-1], strict=True):
        values = part(*values)
        assert tuple((tuple(each.shape), each.dtype) for each in values) == graph.points[cut].tensors


def test_gradients_come_back_along_a_chain() -> None:
    model, graph, x = built("mixed")
    model.train()
    torch.manual_seed(7)
    model(x).square().sum().backward()
    expected = {key: p.grad for key, p in model.named_parameters()}
    model.zero_grad()

    for part in (chain := graph.chain(spread(graph, 4, 0))):
        part.train()
    torch.manual_seed(7)
    sent: list[tuple[Sequence[Tensor], Sequence[Tensor]]] = []
    values: Sequence[Tensor] = (x,)
    for part in chain[:-1]:
        out = part(*values)
        leaves = [each.detach().clone().requires_grad_(each.requires_grad) for each in out]
        sent.append((out, leaves))
        values = [leaf.clone() if leaf.requires_grad else leaf for leaf in leaves]
    chain[-1](*values).square().sum().backward()
    for returned, arrived in reversed(sent):
        pairs = [(each, leaf.grad) for each, leaf in zip(returned, arrived, strict=True) if each.requires_grad]
        torch.autograd.backward([each for each, _ in pairs], [grad for _, grad in pairs])

    for key, gradient in expected.items():
        found = dict(model.named_parameters())[key].grad
        assert gradient is not None
        assert found is not None
        assert torch.allclose(found, gradient, 0, 2e-5 * gradient.abs().max().item()), key


def test_parts_are_the_chain_of_one_cut() -> None:
    _, graph, _ = built("mixed")

    for point in graph.points:
        assert contents(graph.parts(point.index)) == contents(graph.chain([point.index]))


def test_a_chain_without_a_cut_is_the_model() -> None:
    model, graph, x = built("mixed")

    (whole,) = graph.chain([])

    assert whole.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(whole.eval()(x), model.eval()(x))


def test_cuts_by_name_and_by_index_mix() -> None:
    graph = trace(build_model("resnet20"), (torch.randn(2, 3, 8, 8),))

    by_name = graph.chain(["features.1", "features.5.relu", "pooling"])

    assert contents(by_name) == contents(graph.chain([graph.find("features.1").index, "features.5", "pooling"]))


@pytest.mark.parametrize("cuts", [["out", "conv"], ["conv", "conv"], [1, "norm", "conv"], [0, 0], [3, 2]])
def test_cuts_that_do_not_ascend_are_refused(cuts: list[int | str]) -> None:
    _, graph, _ = built("mixed")

    with pytest.raises(PartitionError, match=r"cut '.*' \(\d+\) does not come behind cut '.*' \(\d+\)"):
        graph.chain(cuts)


def test_a_cut_that_is_not_there_is_told() -> None:
    _, graph, _ = built("mixed")

    with pytest.raises(PartitionError, match="no cut 'norn'; the nearest are norm"):
        graph.chain(["conv", "norn"])


class EarlyConstants(EarlyRead):
    """Two parameters are read before all else, one for the middle and one for the end."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(4, 4)
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        gain, shift = self.gain.exp(), self.shift.exp()
        y: Tensor = self.c((self.b(self.a(x)) * gain).relu()) + shift
        return y


def test_constants_are_computed_where_they_are_used() -> None:
    x = torch.randn(2, 4)
    model = EarlyConstants()
    graph = trace(model, (x,))

    first, second, third = chain = graph.chain(["a", "relu"])

    assert "gain" in dict(second.named_parameters())
    assert "shift" in dict(third.named_parameters())
    assert {name.split(".")[0] for name, _ in first.named_parameters()} == {"a"}
    assert [len(point.tensors) for point in graph.points] == [1] * len(graph.points)
    assert torch.equal(through(chain, x), model(x))


def test_a_part_that_only_counts_keeps_its_count() -> None:
    model = Noisy()
    graph = trace(model, (torch.randn(4, 4),))
    whole = model.state_dict().keys()

    for cut in range(1, len(graph.points) - 1):
        chain = graph.chain([cut, cut + 1])
        assert {key for part in chain for key in part.state_dict()} >= whole


def test_every_point_has_a_level() -> None:
    _, graph, _ = built("mixed")

    levels = {point.name: point.level for point in graph.points}

    assert (levels["input"], levels["conv"], levels["out"]) == ("stage",) * 3
    assert levels["mix.0"] == "stage"  # plain containers are opened
    assert levels["cat"] == "operation"


@pytest.mark.parametrize("name", ["mixed", pytest.param("torchvision:densenet121", marks=pytest.mark.slow)])
def test_stages_are_the_most_slices(name: str) -> None:
    _, graph, _ = built(name)

    assert [point.index for point in graph.points if point.level == "stage"] == graph.slices(graph.blocks)
    assert [point.index for point in graph.points] == list(range(len(graph.points)))


def test_modules_are_layers_within_a_block() -> None:
    graph = trace(build_model("resnet20"), (torch.randn(2, 3, 8, 8),))

    levels = {point.name: point.level for point in graph.points}

    assert levels["features.1.relu"] == "stage"
    assert levels["features.1.branch.0"] == "module"
    assert levels["add"] == "operation"


def contents(parts: Sequence[nn.Module]) -> list[list[str]]:
    return [sorted(part.state_dict()) for part in parts]
