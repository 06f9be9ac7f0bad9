"""The README's commands for the paper's workloads are taken as printed, and the two of a pair belong together."""

import re
import shlex
from pathlib import Path

import pytest

from common.config import parse
from common.models.registry import find
from discriminative.options import ClientOptions
from discriminative.server_options import ServerOptions

README = (Path(__file__).parent.parent / "README.md").read_text()
(WORKLOADS,) = re.findall(r"^## Workloads\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
PAIRS = re.findall(
    r"^python -m discriminative\.server (.*)\npython -m discriminative\.client (.*)$", WORKLOADS, re.MULTILINE
)


def test_all_five_are_there() -> None:
    models = [parse(ServerOptions, shlex.split(server)).model for server, _ in PAIRS]
    assert models == ["VGG19", "resnet50", "Mobilenetv3_large", "resnet50_imgnet", "BILSTM"]
    assert WORKLOADS.count("```sh") == len(PAIRS)


@pytest.mark.parametrize(("server", "client"), PAIRS)
def test_a_pair_belongs_together(server: str, client: str) -> None:
    cloud, edge = parse(ServerOptions, shlex.split(server)), parse(ClientOptions, shlex.split(client))

    edge.check()

    for name in ("model", "num_classes", "splits", "pretrained", "weights"):
        assert getattr(cloud, name) == getattr(edge, name), name
    assert bool(find(edge.model).vocabulary) == (edge.dataset == "imdb")
