"""A user's own model: from a file, on the machine of whoever names it, and never because a peer does."""

from pathlib import Path

import msgspec
import pytest

from common.errors import PeerError, UsageError
from common.models.own import choose_own
from common.training.remote import open_session
from common.training.serve import Server
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import train_in_process, train_with_server
from tests.serving import serving

SOURCE = """
from torch import nn

INPUT_SHAPE = (3, 16, 16)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


def small(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), Residual(8), Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


def broken(num_classes):
    raise RuntimeError("no weights today")


def not_a_model(num_classes):
    return 42
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my_model.py"
    path.write_text(SOURCE)
    return path


def client(server: Server, model: str, images: str, run_dir: Path) -> ClientOptions:
    return ClientOptions(
        model=model,
        dataset=images,
        cut="1",
        epochs=1,
        batch_size=20,
        run_dir=run_dir,
        port=server.port,
        hyperport=server.hyperport,
    )


@pytest.mark.slow
def test_it_trains_over_a_server_as_in_one_process(source: Path, images: str, tmp_path: Path) -> None:
    model = f"{source}:small"
    with serving(tmp_path, model) as server:
        options = client(server, model, images, tmp_path)
        split = train_with_server(plan_job(options), options).summary
    base = BaseOptions(model=model, dataset=images, cut="1", epochs=1, batch_size=20, run_dir=tmp_path)
    assert split["model"] == "own:small"
    assert split["parameters_digest"] == train_in_process(plan_job(base), base).summary["parameters_digest"]


def test_in_a_sequential_a_number_is_a_name(source: Path, images: str, tmp_path: Path) -> None:
    options = BaseOptions(model=f"{source}:small", dataset=images, cut="2", run_dir=tmp_path)
    plan = plan_job(options)
    assert plan.cut == plan.prepared.graph.find("2")
    assert plan.cut.index > 2


@pytest.mark.slow
def test_a_server_that_was_not_given_the_file_refuses(source: Path, images: str, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        options = client(server, f"{source}:small", images, tmp_path)
        with pytest.raises(PeerError, match=r"start the server with the same file, --model path/to/file\.py:small"):
            train_with_server(plan_job(options), options)


@pytest.mark.slow
def test_a_server_whose_file_differs_refuses(source: Path, images: str, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(SOURCE.replace("nn.Conv2d(3, 8, 3)", "nn.Conv2d(3, 8, 3, padding=1)"))
    with serving(tmp_path, f"{other}:small") as server:
        options = client(server, f"{source}:small", images, tmp_path)
        with pytest.raises(PeerError, match="another model here than at the client"):
            train_with_server(plan_job(options), options)


@pytest.mark.slow
def test_a_peer_cannot_make_a_server_load_a_file(tmp_path: Path, server: Server, images: str) -> None:
    trap, sprung = tmp_path / "trap.py", tmp_path / "sprung"
    trap.write_text(f"open({str(sprung)!r}, 'w').close()\ndef small(num_classes): ...\n")
    options = ClientOptions(model="resnet20", dataset=images, run_dir=tmp_path)
    job = msgspec.structs.replace(plan_job(options).job, model=f"{trap}:small")
    with pytest.raises(PeerError, match="no model is called"):
        open_session("127.0.0.1", server.port, server.hyperport, job, 1 << 20)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        ("smal", "did you mean small"),
        ("broken", "no weights today"),
        ("not_a_model", "it must return a torch.nn.Module"),
    ],
)
def test_a_factory_that_is_none(source: Path, factory: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        choose_own(f"{source}:{factory}").build(10)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("1 / 0", "ZeroDivisionError"), ("INPUT_SHAPE = 3\ndef small(n): ...", "it must be"), ("def (", "SyntaxError")],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        choose_own(f"{path}:small")


def test_a_missing_file() -> None:
    with pytest.raises(UsageError, match="there is no file"):
        choose_own("nowhere/model.py:small")


def test_dropout_needs_a_factory_that_takes_it(source: Path) -> None:
    with pytest.raises(UsageError, match="takes no dropout"):
        choose_own(f"{source}:small").build(10, dropout=0.5)
