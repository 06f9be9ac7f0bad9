"""transformers' models by type, with options, and from a folder: plain tensors in and out, and nothing downloaded."""

import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from common.errors import PeerError, UsageError
from common.models import build_model
from common.models.own import choose_model
from common.models.registry import choose, find
from common.training.remote import open_session
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions, JobOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process, train_with_server
from tests.serving import serving

pytestmark = [  # the import takes two seconds
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs the extra hf"),
]

TOY = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=4"
VIT = f"hf:vit({TOY},image_size=32,patch_size=8)"


@pytest.fixture(scope="module")
def transformers() -> Any:
    return import_module("transformers")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("hf:gpt2(n_layer=2,n_embd=64,n_head=4)", (2, 5)),
        (f"hf:bert({TOY})", (2, 5)),
        (f"hf:llama({TOY},num_key_value_heads=2)", (2, 5)),
        ("hf:t5(d_model=32,d_kv=8,d_ff=64,num_layers=2,num_heads=4)", (2, 5)),
        (
            "hf:bart(d_model=32,encoder_layers=1,decoder_layers=1,encoder_attention_heads=4,decoder_attention_heads=4)",
            (2, 5),
        ),
        ("hf:mamba(hidden_size=32,num_hidden_layers=1,vocab_size=64)", (2, 16, 32)),  # has no classifier
        (VIT, (2, 5)),
        ("hf:resnet(embedding_size=16)", (2, 5)),
    ],
)
def test_a_model_gives_one_tensor_in_both_modes(name: str, shape: tuple[int, ...]) -> None:
    chosen = choose_model(name)
    model = chosen.build(5)
    example = chosen.example(2)

    assert len(example) == 1
    for training in (False, True):
        out = model.train(training)(*example)
        assert isinstance(out, torch.Tensor)
        assert out.shape == shape


def test_words_are_no_special_ones_but_the_last() -> None:
    (words,) = choose_model("hf:bart(vocab_size=8)").example(64)

    assert words.shape == (64, 16)
    assert words.dtype == torch.int64
    assert set(words[:, :-1].flatten().tolist()) == {3, 4, 5, 6, 7}
    assert set(words[:, -1].tolist()) == {2}


def test_a_type_is_known_by_its_configuration_too() -> None:
    assert choose("hf:ViTConfig").name == choose("HF:vit").name == "hf:vit"
    assert choose("hf:vit").input_shape == (3, 224, 224)


def test_names_of_parameters_are_transformers_own(transformers: Any) -> None:
    torch.manual_seed(3)
    ours = choose_model(VIT).build(5).state_dict()
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    config.num_labels = 5
    torch.manual_seed(3)
    theirs = transformers.ViTForImageClassification(config).state_dict()

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bertt", "transformers has no model type 'bertt'; the nearest are bert, "),
        ("whisper", "hf:whisper takes input_features; only models of words"),
        ("gpt2(n_layr=2)", "hf:gpt2 has no option 'n_layr'; the nearest are n_layer, "),
        ("gpt2(n_layer=2.5)", "hf:gpt2: n_layer is 2.5; its default is 12"),
        ("gpt2(n_layer=True)", "hf:gpt2: n_layer is True; its default is 12"),
        ("gpt2(n_layer='2')", "hf:gpt2: n_layer is '2'; its default is 12"),
        ("gpt2(attn_implementation='some/repository')", "hf:gpt2 has no option 'attn_implementation'"),
        ("gpt2(_attn_implementation='some/repository')", "hf:gpt2 has no option '_attn_implementation'"),
        ("gpt2(auto_map='some/repository')", "hf:gpt2 has no option 'auto_map'"),
        ("gpt2(use_cache=True)", "hf:gpt2 has no option 'use_cache'"),
        ("gpt2(return_dict=True)", "hf:gpt2 has no option 'return_dict'"),
        ("detr(backbone='some/repository')", "hf:detr has no option 'backbone'"),
        ("detr(use_pretrained_backbone=True)", "hf:detr has no option 'use_pretrained_backbone'"),
        ("openai/gpt2", "there is no openai/gpt2/config.json to build a model from; models of the hub are not loaded"),
    ],
)
def test_what_cannot_be_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        choose_model(f"hf:{name}")


def test_dropout_is_the_configurations() -> None:
    with pytest.raises(UsageError, match=r"--dropout is 0\.3, but hf:vit has its configuration's own"):
        build_model("hf:vit", dropout=0.3)


def test_a_model_of_words_is_for_no_job(images: str) -> None:
    with pytest.raises(UsageError, match="hf:bert is no image classifier; training takes only those"):
        plan_job(JobOptions(model="hf:bert", dataset=images))
    with pytest.raises(UsageError, match="--input is 3,8,8, the size of an image, but this model takes words"):
        find("hf:bert").example(2, (3, 8, 8))


@pytest.fixture
def folder(transformers: Any, tmp_path: Path) -> Path:
    torch.manual_seed(5)
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=8
    )
    config.num_labels = 5
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def test_a_folders_weights_are_loaded(transformers: Any, folder: Path) -> None:
    chosen = choose_model(f"hf:{folder}")
    loaded = chosen.build(5).state_dict()
    kept = transformers.ViTForImageClassification.from_pretrained(folder).state_dict()

    assert (chosen.name, chosen.input_shape) == ("hf:toy/", (3, 32, 32))
    assert all(torch.equal(loaded[key], kept[key]) for key in kept)
    torch.manual_seed(3)
    other = chosen.build(7)  # other classes: the last layer is new, by the seed
    torch.manual_seed(3)
    again = chosen.build(7).state_dict()
    assert other(*chosen.example(2)).shape == (2, 7)
    assert all(torch.equal(value, again[key]) for key, value in other.state_dict().items())


def test_a_folder_without_weights_draws_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()

    assert choose_model(f"hf:{folder}").build(5)(torch.rand(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "nothing"}, "transformers has no model type 'nothing'"),
        ({"model_type": 3}, "names no model_type"),
        ({"quantization_config": {"bits": 4}}, "holds a quantized model"),
    ],
)
def test_a_folder_that_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    content = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))

    with pytest.raises(UsageError, match=message):
        choose_model(f"hf:{folder}")


def test_a_folders_code_and_pickles_are_never_loaded(folder: Path) -> None:
    sprung = folder / "sprung"
    (folder / "trap.py").write_text(f"open({str(sprung)!r}, 'w').close()\n")
    content = json.loads((folder / "config.json").read_text())
    content |= {"auto_map": {"AutoConfig": "trap.Trap"}, "_attn_implementation": "some/repository"}
    (folder / "config.json").write_text(json.dumps(content))
    choose_model(f"hf:{folder}").build(5)
    assert not sprung.exists()

    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="are pickles, which are never loaded"):
        choose_model(f"hf:{folder}")


def test_a_folder_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        choose_model(f"hf:{folder}")


def test_a_peer_cannot_make_a_server_look_into_a_folder(folder: Path, server: Server, images: str) -> None:
    options = ClientOptions(model="resnet20", dataset=images, run_dir=folder.parent)
    for name in (f"hf:{folder}", VIT):
        job = msgspec.structs.replace(plan_job(options).job, model=name)
        with pytest.raises(PeerError, match="hold only where they are typed"):
            open_session("127.0.0.1", server.port, server.hyperport, job, 1 << 20)


def test_the_client_plans_a_job(images: str) -> None:
    plan = plan_job(JobOptions(model=VIT, dataset=images, batch_size=4, split_index=1))

    assert plan.job.input_shape == (3, 32, 32)
    assert plan.job.model == (
        "hf:vit(hidden_size=32,image_size=32,intermediate_size=64,num_attention_heads=4,num_hidden_layers=2,patch_size=8)"
    )


def test_it_trains_over_a_server_that_was_started_with_the_same_options(images: str, tmp_path: Path) -> None:
    with serving(tmp_path, VIT) as server:
        shared: dict[str, Any] = {"model": VIT, "dataset": images, "epochs": 1, "batch_size": 20, "run_dir": tmp_path}
        shared["cut"] = "vit.layernorm"  # before the first layer the batch's size crosses as well
        options = ClientOptions(port=server.port, hyperport=server.hyperport, **shared)
        split = train_with_server(plan_job(options), options).summary
    base = BaseOptions(**shared)
    assert split["parameters_digest"] == train_in_process(plan_job(base), base).summary["parameters_digest"]
