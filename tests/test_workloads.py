"""The five published models: their slices, split training that is unsplit training, and texts from end to end."""

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from common.datasets.registry import load_dataset
from common.errors import JobRefused, ProtocolError, UsageError
from common.models import build_model
from common.models.bilstm import VOCABULARY
from common.models.own import choose_model
from common.models.registry import find
from common.partition import trace
from common.training.exchange import Upload
from common.training.prepare import make_tail
from common.training.serve import Server
from discriminative import recipe
from discriminative.options import ClientOptions
from discriminative.recipe import make_recipe, plan_job
from discriminative.train import train_in_process, train_with_server
from tests.workload import options, unsplit_digest, write_samples

# Outputs of the slices as published: MiB of float32 for a batch of 32 (featuresize.csv, without the last one).
MOBILENET = [2.0] * 2 + [3.0] * 2 + [1.25] * 3 + [0.625] * 4 + [0.875] * 2 + [0.3125] * 3 + [0.15625]
BILSTM = [3.125, 6.25, 3.125, 0.015625]
RESNET50 = [8.0] + [32.0] * 3 + [16.0] * 4 + [8.0] * 6 + [4.0] * 3 + [0.25]
# With ImageNet's stem 64x64 become 16x16: a quarter of each size in the CIFAR form.
IMAGENET = [size / 4 for size in RESNET50[:-1]] + [0.25]
SIZES = {"Mobilenetv3_large": MOBILENET, "BILSTM": BILSTM, "resnet50": RESNET50, "resnet50_imgnet": IMAGENET}

CUTS = {"VGG19": 4, "resnet50": 3, "resnet50_imgnet": 8, "Mobilenetv3_large": 5, "BILSTM": 2}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_slices_send_what_was_published(name: str) -> None:
    with torch.device("cpu" if name == "BILSTM" else "meta"):  # an LSTM on meta tensors is slower than on real ones
        graph = trace(build_model(name, 2), find(name).example(2))

    points = [graph.points[index] for index in graph.slices(graph.blocks)]

    assert [16 * point.activation_bytes / 2**20 for point in points[1:-1]] == SIZES[name]
    assert not any(point.unsafe for point in points)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split_index"), CUTS.items())
def test_at_k0_it_is_unsplit_training(samples: str, tmp_path: Path, name: str, split_index: int) -> None:
    asked = options(samples, tmp_path, model=name, split_index=split_index)
    plan = plan_job(asked)

    expected = unsplit_digest(plan)

    assert train_in_process(plan, asked).summary["parameters_digest"] == expected


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("name", "split_index"), CUTS.items())
def test_at_k3_over_tcp_it_is_the_run_in_process(server: Server, tmp_path: Path, name: str, split_index: int) -> None:
    asked = options(write_samples(tmp_path, train=8), tmp_path, model=name, split_index=split_index, stale_it=3)
    here = train_in_process(plan_job(asked), asked)
    values = {field: getattr(asked, field) for field in asked.__dataclass_fields__}
    remote = ClientOptions(**values, port=server.port, hyperport=server.hyperport)

    there = train_with_server(plan_job(remote), remote)

    assert there.summary["parameters_digest"] == here.summary["parameters_digest"]
    assert there.summary["loss"] == here.summary["loss"]
    rows = [json.loads(line) for line in (there.folder / "metrics.jsonl").read_text().splitlines()]
    assert max(row["staleness"] for row in rows) == 3


@pytest.mark.slow
@pytest.mark.parametrize("split_index", [0, 1, 3])
def test_texts_over_tcp_are_texts_in_process(server: Server, samples: str, tmp_path: Path, split_index: int) -> None:
    asked = options(samples, tmp_path, model="BILSTM", split_index=split_index, stale_it=1)
    here = train_in_process(plan_job(asked), asked)
    values = {name: getattr(asked, name) for name in asked.__dataclass_fields__}
    remote = ClientOptions(**values, port=server.port, hyperport=server.hyperport)

    there = train_with_server(plan_job(remote), remote)

    assert there.summary["parameters_digest"] == here.summary["parameters_digest"]
    assert there.summary["accuracy"] == here.summary["accuracy"]


@pytest.mark.slow
def test_a_cut_may_move_through_an_lstm(server: Server, samples: str, tmp_path: Path) -> None:
    still = options(samples, tmp_path, model="BILSTM")
    expected = train_in_process(plan_job(still), still).summary["parameters_digest"]
    values = {name: getattr(still, name) for name in still.__dataclass_fields__}
    moving = ClientOptions(**{**values, "move": ("1:hidden.1",)}, port=server.port, hyperport=server.hyperport)

    assert train_with_server(plan_job(moving), moving).summary["parameters_digest"] == expected


def test_a_text_model_says_what_it_takes(samples: str, tmp_path: Path) -> None:
    job = plan_job(options(samples, tmp_path, model="BILSTM")).job

    assert (job.input_shape, job.vocabulary, job.dropout) == ((200,), VOCABULARY, 0.0)
    with pytest.raises(JobRefused, match=re.escape("have shape (200,) of 10000 words here, at the client (200,) of 9")):
        make_recipe().build(msgspec.structs.replace(job, vocabulary=9))


@pytest.mark.slow
def test_dropout_is_the_models_own_where_none_is_asked_for(samples: str, tmp_path: Path) -> None:
    assert plan_job(options(samples, tmp_path, model="mobilenetv3_large")).job.dropout == 0.8
    with torch.device("meta"):
        for asked, expected in ((None, [0.8]), (0.2, [0.2]), (0.0, [])):
            model = build_model("Mobilenetv3_large", 2, dropout=asked)
            assert [each.p for each in model.modules() if isinstance(each, nn.Dropout)] == expected


@pytest.mark.parametrize("word", [-1, VOCABULARY])
def test_a_peers_words_are_checked_where_texts_cross(samples: str, tmp_path: Path, word: int) -> None:
    plan = plan_job(options(samples, tmp_path, model="BILSTM", split_index=0))
    tail = make_tail(plan.prepared, plan.job, device="cpu", objective=make_recipe().objective)

    def upload(words: Tensor) -> Upload:
        return Upload(0, 0, False, (words,), torch.tensor([0]), torch.tensor([0]), ())

    tail.step(upload(torch.full((1, 200), VOCABULARY - 1)))
    with pytest.raises(ProtocolError, match=f"the model knows {VOCABULARY}, counted from 0"):
        tail.step(upload(torch.full((1, 200), word)))


OWN = """
from torch import nn
INPUT_SHAPE, VOCABULARY = {shape}, {words}

class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)

def bag(num_classes):
    return nn.Sequential(nn.Embedding({words}, 8), Mean(), nn.Linear(8, num_classes))
"""


def test_a_text_model_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(shape="(12,)", words=50))
    asked = options("synthetic", tmp_path, model=f"{tmp_path}/own.py:bag", split_index=1)
    plan = plan_job(asked)

    assert (plan.job.input_shape, plan.job.vocabulary) == ((12,), 50)
    assert len(plan.data.train.labels) == 1024
    served = make_recipe(choose_model(f"{tmp_path}/own.py:bag"))
    assert served.build(plan.job)(torch.zeros(1, 12, dtype=torch.int64)).shape == (1, 2)


@pytest.mark.parametrize(
    ("shape", "words", "message"),
    [
        ("(3, 8, 8)", 50, "INPUT_SHAPE is (3, 8, 8); it must be (words,)"),
        ("(12,)", 0, "INPUT_SHAPE is (12,); it must be (channels, height, width)"),
        ("(12,)", "'many'", "VOCABULARY is 'many'; it must be how many"),
    ],
)
def test_a_text_model_that_says_it_wrongly(tmp_path: Path, shape: str, words: object, message: str) -> None:
    (tmp_path / "own.py").write_text(OWN.format(shape=shape, words=words))
    with pytest.raises(UsageError, match=re.escape(message)):
        choose_model(f"{tmp_path}/own.py:bag")


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        ("resnet20", "imdb", "--dataset imdb has no images, which the model takes; known: digits, synthetic"),
        (
            "BILSTM",
            "cifar10",
            "--dataset cifar10 has no texts, which the model takes; known: imdb, synthetic, npz:FILE",
        ),
        ("BILSTM", "folder:x", "--dataset folder:x has no texts"),
        ("resnet20", "csv:x.csv", "--dataset csv:x.csv has no images"),
        ("BILSTM", "imbd", "no data set is called 'imbd'; did you mean imdb?"),
        ("resnet20", "tinyimagenet", "no data set is called 'tinyimagenet'; did you mean tiny_imagenet?"),
        ("BLSTM", "imdb", "no model is called 'BLSTM'; did you mean BILSTM?"),
        ("Mobilenetv3", "cifar10", "no model is called 'Mobilenetv3'; did you mean Mobilenetv3_large?"),
    ],
)
def test_wrong_names_and_wrong_pairs(tmp_path: Path, model: str, dataset: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        plan_job(options(dataset, tmp_path, model=model))


def test_augmentation_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        recipe, "load_dataset", lambda *args, **more: replace(load_dataset(*args, **more), augment=True)
    )
    name = write_samples(tmp_path)

    assert plan_job(options(name, tmp_path, model="resnet20")).data.augment
    assert not plan_job(options(name, tmp_path, model="resnet20", augment=False)).data.augment
