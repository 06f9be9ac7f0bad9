"""torchvision's models by name: built bare, and the image classifiers good for a job of the client."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from common.errors import UsageError
from common.models import build_model
from common.models.registry import choose, find, input_shape
from common.partition import trace
from discriminative.options import JobOptions
from discriminative.recipe import plan_job

pytestmark = pytest.mark.slow  # importing torchvision costs a second


def on_meta(name: str, num_classes: int = 10, dropout: float = 0.0) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, num_classes, dropout=dropout)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_689_512), ("mobilenet_v3_small", 2_542_856), ("densenet121", 7_978_856), ("vgg11", 132_863_336)],
)
def test_parameters_are_as_many_as_published(name: str, parameters: int) -> None:
    assert sum(weight.numel() for weight in on_meta(f"torchvision:{name}", 1000).parameters()) == parameters


def test_the_models_weights_are_torchvisions_own() -> None:
    from torchvision import models  # noqa: PLC0415  costs a second

    torch.manual_seed(3)
    ours = build_model("torchvision:resnet18", 7).state_dict()
    torch.manual_seed(3)
    theirs = models.resnet18(num_classes=7).state_dict()

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 224), ("inception_v3", 299)])
def test_models_of_several_outputs_are_built_with_one(name: str, side: int) -> None:
    model = on_meta(f"torchvision:{name}").train()

    out = model(torch.empty(2, *input_shape(f"torchvision:{name}"), device="meta"))

    assert input_shape(f"torchvision:{name}") == (3, side, side)
    assert isinstance(out, torch.Tensor)
    assert out.shape == (2, 10)
    assert not any("aux" in key.lower() for key in model.state_dict())


def test_names_are_matched_in_any_case() -> None:
    assert input_shape("TorchVision:ResNet18") == (3, 224, 224)
    assert isinstance(on_meta("Torchvision:AlexNet"), nn.Module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "torchvision has no image classifier 'resnet19'; the nearest are resnet18, "),
        ("", "torchvision has no image classifier ''; the nearest are "),
        (
            "quantized_resnet18",
            "torchvision:quantized_resnet18 is quantized, without gradients; use torchvision:resnet18",
        ),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, message: str) -> None:
    for ask in (input_shape, build_model):
        with pytest.raises(UsageError, match=re.escape(message)):
            ask(f"torchvision:{name}")


OTHERS = [
    ("lraspp_mobilenet_v3_large", [(2, 3, 224, 224)], (5, 224, 224)),
    ("ssdlite320_mobilenet_v3_large", [(3, 320, 320), (3, 320, 320)], (4,)),  # boxes, however many
    ("r3d_18", [(2, 3, 16, 112, 112)], (5,)),
    ("raft_small", [(2, 3, 128, 128), (2, 3, 128, 128)], (2, 128, 128)),
]


@pytest.mark.parametrize(("name", "inputs", "output"), OTHERS)
def test_models_that_are_no_classifiers_of_images_are_built_for_tracing(
    name: str, inputs: list[tuple[int, ...]], output: tuple[int, ...]
) -> None:
    chosen = find(f"torchvision:{name}")

    example = chosen.example(2)
    with torch.no_grad():
        first = tree_leaves(chosen.build(5).eval()(*example))[0]

    assert [tuple(each.shape) for each in tree_leaves(example)] == inputs
    assert tuple(first.shape[1:]) == output


@pytest.mark.parametrize("name", [name for name, _, _ in OTHERS])
def test_a_job_takes_only_classifiers(name: str, images: str) -> None:
    message = f"torchvision:{name} is no image classifier; training takes only those"
    for ask in (input_shape, choose):
        with pytest.raises(UsageError, match=message):
            ask(f"torchvision:{name}")
    with pytest.raises(UsageError, match=message):
        plan_job(JobOptions(model=f"torchvision:{name}", dataset=images))


def test_every_model_but_the_quantized_has_a_name() -> None:
    from torchvision import models  # noqa: PLC0415  costs a second

    names = [name for name in models.list_models() if not name.startswith("quantized_")]
    classifiers = [name for name in names if find(f"torchvision:{name}").classifies]

    assert len(names) > 100
    assert classifiers == models.list_models(module=models)


@pytest.mark.parametrize(("name", "layers"), [("alexnet", 2), ("mobilenet_v3_small", 1), ("googlenet", 1)])
def test_dropout_is_what_was_asked_for(name: str, layers: int) -> None:
    for dropout in (0.0, 0.3):
        model = on_meta(f"torchvision:{name}", dropout=dropout)
        assert [each.p for each in model.modules() if isinstance(each, nn.Dropout)] == [dropout] * layers


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_dropout_where_there_is_none_is_refused(name: str) -> None:
    message = f"--dropout is 0.3, but torchvision builds {name} without dropout; leave it out"
    with pytest.raises(UsageError, match=re.escape(message)):
        build_model(f"torchvision:{name}", dropout=0.3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x1_0", "regnet_x_400mf"])
def test_models_can_be_cut(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"torchvision:{name}").eval()
    x = torch.rand(2, 3, 64, 64)
    graph = trace(model, (x,))

    for cut in graph.slices(4):
        head, tail = (part.eval() for part in graph.parts(cut))
        assert torch.equal(tail(*head(x)), model(x))


def test_the_client_plans_a_job(images: str) -> None:
    options: dict[str, Any] = {"dataset": images, "batch_size": 8, "seed": 3}

    plan = plan_job(JobOptions(model="torchvision:mobilenet_v3_small", split_index=3, dropout=0.2, **options))
    batch = next(plan.train.epoch(0))
    head, tail = plan.prepared.graph.parts(plan.cut.index)

    assert plan.job.input_shape == (3, 224, 224)
    assert batch.inputs.shape == (8, 3, 224, 224)
    assert tail(*head(batch.inputs)).shape == (8, 10)
    assert (plan.job.splits, plan.job.split_index, plan.job.cut_name) == (18, 3, plan.cut.name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_tiny", "swin_t"])
def test_stochastic_depth_keeps_its_training_flag(name: str) -> None:
    """Opened by the tracer, it would be frozen in the mode of the moment, and the trace be refused."""
    model = build_model(f"torchvision:{name}")
    graph = trace(model, (torch.rand(2, 3, 64, 64),))
    head, tail = graph.parts(len(graph.points) // 2)
    model.eval()
    head.eval()
    tail.eval()
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(tail(*head(image)), model(image))
