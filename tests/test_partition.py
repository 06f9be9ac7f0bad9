"""Head and tail together are the model: outputs, gradients, buffers and names, at any cut of any model."""

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from common.models import build_model
from common.models.registry import input_shape
from common.partition import trace
from common.partition.graph import Graph
from common.partition.layout import pack, unpack


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter and statistic a random value: a branch that adds 0 would hide a wrong cut."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator) - 0.5
                value.copy_(noise / max(value[0].numel(), 1) ** 0.5 if value.dim() > 1 else noise + 1)
    return model


def of_torchvision(name: str, **options: bool) -> nn.Module:
    import torchvision  # noqa: PLC0415  costs a second, for the slow tests only

    model: nn.Module = getattr(torchvision.models, name)(num_classes=10, **options)
    return model


class Mixed(nn.Module):
    """In-place operations, a split, a skip connection, dropout, a shared parameter-free module and flat features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.mix = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid())
        self.gain = nn.Parameter(torch.ones(8, 1, 1))
        self.shift: Tensor
        self.register_buffer("shift", torch.ones(8, 1, 1))
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain.exp()
        x = self.relu(self.norm(self.conv(x)))
        left, right = x.chunk(2, dim=1)
        y = torch.cat([self.mix(left), self.drop(right)], 1)
        y += x
        y = self.relu(y * gain + self.shift)
        logits: Tensor = self.out(self.drop(y.mean((2, 3)).flatten(1)))
        return logits


SMALL: dict[str, Callable[[], nn.Module]] = {"mixed": Mixed, "resnet20": lambda: build_model("resnet20")}
LARGE: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: of_torchvision("resnet18"),
    "mobilenet_v3_small": lambda: of_torchvision("mobilenet_v3_small"),
    "densenet121": lambda: of_torchvision("densenet121"),
    "googlenet": lambda: of_torchvision("googlenet", aux_logits=False, init_weights=False),
}
SIZE = {"mixed": 8, "resnet20": 16, "resnet18": 32, "mobilenet_v3_small": 32, "densenet121": 32, "googlenet": 32}
MODELS = ["mixed", *(pytest.param(name, marks=pytest.mark.slow) for name in ["resnet20", *LARGE])]


def traced(name: str) -> tuple[nn.Module, Graph, Tensor]:
    """A model with weights that matter, its graph, and a batch."""
    torch.manual_seed(0)
    model = randomise((SMALL | LARGE)[name]())
    x = torch.randn(2, 3, SIZE[name], SIZE[name])
    return model, trace(model, (x,)), x


def spread(graph: Graph, count: int) -> list[int]:
    """Some cuts from first to last, or all of them where there are no more."""
    last = len(graph.points) - 1
    return sorted({last * i // (count - 1) for i in range(count)}) if count <= last else list(range(last + 1))


def through_parts(parts: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Across the cut as over a wire: copies, with gradients handed back."""
    head, tail = parts
    crossing = head(x)
    leaves = [each.detach().clone().requires_grad_(each.requires_grad) for each in crossing]
    # As in the tail: an operation that writes in place must not meet a leaf.
    out: Tensor = tail(*(leaf.clone() if leaf.requires_grad else leaf for leaf in leaves))
    if out.requires_grad:
        (out.square().sum()).backward()  # type: ignore[no-untyped-call]
        wanted = [(each, leaf.grad) for each, leaf in zip(crossing, leaves, strict=True) if each.requires_grad]
        if wanted:
            torch.autograd.backward([each for each, _ in wanted], [grad for _, grad in wanted])
    return out.detach()


@pytest.mark.parametrize("name", MODELS)
def test_every_cut_computes_the_model_in_evaluation(name: str) -> None:
    model, graph, x = traced(name)
    model.eval()
    with torch.no_grad():
        expected = model(x)

        for index in spread(graph, 80 if name in SMALL else 14):
            head, tail = (part.eval() for part in graph.parts(index))
            crossing = [each.clone() for each in head(x)]
            assert torch.equal(tail(*crossing), expected), graph.points[index]


def trained(name: str, cut: int | None) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Output, gradients and buffers of one forward and backward pass, split or (None) unsplit."""
    model, graph, x = traced(name)
    model.train()
    parts = [model] if cut is None else [part.train() for part in graph.parts(cut)]
    torch.manual_seed(7)
    if cut is None:
        out = model(x)
        out.square().sum().backward()
        out = out.detach()
    else:
        out = through_parts(parts, x)
    gradients = {key: p.grad for part in parts for key, p in part.named_parameters() if p.grad is not None}
    return out, gradients, {key: buffer for part in parts for key, buffer in part.named_buffers()}


@pytest.mark.parametrize("name", MODELS)
def test_cuts_train_the_model(name: str) -> None:
    out, gradients, buffers = trained(name, None)

    for cut in spread(traced(name)[1], 8 if name == "mixed" else 5):
        split_out, split_gradients, split_buffers = trained(name, cut)

        assert torch.equal(split_out, out)
        assert split_gradients.keys() == gradients.keys()
        assert split_buffers.keys() == buffers.keys()
        assert all(torch.equal(split_buffers[key], buffers[key]) for key in buffers)
        for key, gradient in gradients.items():
            # Where several paths cross, their gradients are summed in another order: the last digits may differ.
            assert torch.allclose(split_gradients[key], gradient, 0, 2e-5 * gradient.abs().max().item()), key


@pytest.mark.parametrize("name", MODELS)
def test_names_of_head_and_tail_are_the_models_own(name: str) -> None:
    model, graph, _ = traced(name)
    whole = model.state_dict()

    for index in spread(graph, 12):
        head, tail = (part.state_dict() for part in graph.parts(index))

        assert not head.keys() & tail.keys()
        assert (head | tail).keys() == whole.keys()
        assert all(value.data_ptr() == whole[key].data_ptr() for key, value in (head | tail).items())


def test_the_ends_hold_all_or_nothing() -> None:
    model, graph, x = traced("mixed")
    model.eval()

    nothing, everything = graph.parts(0)
    whole, rest = graph.parts(len(graph.points) - 1)

    assert not list(nothing.parameters())
    assert not list(rest.parameters())
    assert torch.equal(everything.eval()(x), model(x))
    assert torch.equal(whole.eval()(x)[0], model(x))


@pytest.mark.parametrize("name", MODELS[:2])
def test_the_batch_size_stays_free(name: str) -> None:
    model, graph, x = traced(name)
    model.eval()
    batch = torch.cat([x, x, x[:1]])

    for index in spread(graph, 6):
        head, tail = (part.eval() for part in graph.parts(index))
        assert torch.equal(tail(*head(batch)), model(batch))


def test_points_say_what_crosses() -> None:
    _, graph, x = traced("mixed")

    for point in graph.points:
        crossing = graph.parts(point.index)[0](x)
        assert point.tensors == tuple((tuple(each.shape), each.dtype) for each in crossing)
        assert point.activation_bytes == sum(each.nbytes for each in crossing)
        assert point.parameters_before == sum(p.numel() for p in graph.parts(point.index)[0].parameters())


def test_a_point_is_found_by_index_name_and_module() -> None:
    graph = trace(build_model("resnet20"), (torch.randn(2, 3, 8, 8),))

    by_module = graph.find("features.1")
    assert graph.find(by_module.index) is graph.find(by_module.name) is by_module
    assert by_module.name == "features.1.relu"
    assert graph.find("features.1.branch").index < by_module.index < graph.find("features.2.branch.0").index
    assert graph.find("input").index == 0
    assert graph.find("classifier") is graph.points[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), [("VGG19", 19), ("resnet50", 19), ("resnet20", 12)])
def test_blocks_are_the_papers_slices(name: str, blocks: int) -> None:
    torch.manual_seed(0)
    graph = trace(build_model(name), (torch.randn(2, *input_shape(name)),))

    slices = graph.slices(blocks)

    assert graph.blocks == blocks
    assert len(slices) == blocks + 1
    assert slices == sorted(set(slices))
    assert (slices[0], slices[-1]) == (0, len(graph.points) - 1)
    assert graph.slices(1) == [0, len(graph.points) - 1]
    assert set(graph.slices(4)) < set(slices)


def test_gradients_are_wanted_where_a_trainable_parameter_is_behind() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    model[1].requires_grad_(requires_grad=False)
    graph = trace(model, (torch.randn(2, 4),))

    wanted = [graph.gradients_wanted(point.index) for point in graph.points]

    assert wanted == [(False,), (False,), (False,), (False,), (True,), (True,)]


class Detached(nn.Module):
    """What crosses behind ``detach`` and ``argmax`` has no gradient, though parameters are behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        fixed, best = y.detach(), y.argmax(1)
        return self.b(y + fixed), best


def test_no_gradient_is_wanted_where_none_can_come_back() -> None:
    graph = trace(Detached(), (torch.randn(2, 4),))

    assert graph.gradients_wanted("argmax") == (True, False, False)


def test_two_builds_have_one_digest() -> None:
    wider = Mixed()
    wider.out = nn.Linear(8, 6)

    def digest(model: nn.Module, *shape: int) -> str:
        return trace(model, (torch.randn(shape),)).digest

    assert digest(Mixed(), 2, 3, 8, 8) == digest(Mixed(), 5, 3, 8, 8)
    assert digest(Mixed(), 2, 3, 8, 8) != digest(wider, 2, 3, 8, 8)
    assert digest(Mixed(), 2, 3, 8, 8) != digest(Mixed(), 2, 3, 16, 16)


@pytest.mark.parametrize(
    "other", [nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, padding=2, dilation=2)]
)
def test_a_setting_of_a_layer_changes_the_digest(other: nn.Module) -> None:
    def digest(layer: nn.Module) -> str:
        return trace(nn.Sequential(layer, nn.ReLU()), (torch.randn(2, 3, 8, 8),)).digest

    assert digest(nn.Conv2d(3, 3, 3, padding=1)) == digest(nn.Conv2d(3, 3, 3, padding=1)) != digest(other)


def test_another_activation_changes_the_digest() -> None:
    x = torch.randn(2, 4)

    assert trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (x,)).digest != (
        trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), (x,)).digest
    )


class Noisy(nn.Module):
    """Draws random numbers in every mode, counts its calls, and makes a tensor from nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.frozen = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        counted = self.calls.add_(1)
        x = self.frozen(self.norm(self.linear(x))) + torch.arange(4.0)
        noisy: Tensor = nn.functional.dropout(x, 0.5) * counted
        return noisy


def test_tracing_leaves_no_mark() -> None:
    model = Noisy()
    before, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    x = torch.randn(4, 4)
    example, state = x.clone(), torch.get_rng_state()

    graph = trace(model, (x,))

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, example)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert set(vars(model)) == attributes
    assert [each.training for each in model.modules()] == [True, True, True, False]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert graph.digest == trace(model, (x,)).digest


def test_parts_know_the_mode_that_their_modules_are_in() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))

    for part in trace(model, (torch.randn(2, 4),)).parts(1):
        assert {each.training for each in part.modules()} == {True}


class EarlyRead(nn.Module):
    """Reads a parameter, and computes with it, long before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain.exp()
        y: Tensor = self.b(self.a(x)) * gain
        return y


def test_a_parameter_belongs_to_the_side_that_uses_it() -> None:
    graph = trace(EarlyRead(), (torch.randn(2, 4),))

    head, tail = graph.parts("a")

    assert [name for name, _ in head.named_parameters()] == ["a.weight", "a.bias"]
    assert "gain" in dict(tail.named_parameters())
    assert [len(point.tensors) for point in graph.points] == [1] * len(graph.points)


class WritesToAView(nn.Module):
    """Writes to a view, so that the tensor behind it changes too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        view = y[:, :2]
        view.mul_(3.0)
        return self.b(y)  # type: ignore[no-any-return]


def test_a_cut_between_a_view_and_a_write_to_it_serves_inference_only() -> None:
    model = WritesToAView().eval()
    x = torch.randn(2, 4)
    graph = trace(model, (x,))

    for point in graph.points:
        head, tail = graph.parts(point.index)
        storages, views = pack(head(x), graph.groups(point.index, training=False))
        assert torch.equal(tail(*unpack([each.clone() for each in storages], views)), model(x)), point
    assert graph.find("getitem").unsafe == (
        "two of the tensors that cross share memory which is written to behind the cut"
    )
    assert graph.find("mul_").unsafe == ""
