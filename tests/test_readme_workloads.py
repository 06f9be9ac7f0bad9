"""The README's commands for the paper's workloads are taken as printed, and the two of a pair belong together."""

import re
import shlex
from pathlib import Path

import pytest

from baseline.sweep import Options as SweepOptions
from baseline.sweep import flags_of, parse_grid
from common.config import parse
from common.models.registry import find
from discriminative.options import BaseOptions, ClientOptions
from discriminative.server_options import ServerOptions

README = (Path(__file__).parent.parent / "README.md").read_text()
(WORKLOADS,) = re.findall(r"^## Workloads\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
PAIRS = re.findall(
    r"^python -m discriminative\.server (.*)\npython -m discriminative\.client (.*)$", WORKLOADS, re.MULTILINE
)

ABLATIONS = re.findall(r"^python -m baseline\.base (.*)$", README, re.MULTILINE)
SWEEPS = re.findall(r"^python -m baseline\.sweep (.*) -- (.*)$", README, re.MULTILINE)


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


def test_all_ablations_are_taken() -> None:
    taken = [parse(BaseOptions, shlex.split(each)) for each in ABLATIONS]
    assert len(taken) == 7
    for each in taken:
        each.check()
    assert [each.stale_it for each in taken[:4]] == [0, 5, 5, 5]
    assert [each.tracked for each in taken if each.track_weights] == [(0, 1, 2, 3)]
    assert [each.freeze for each in taken[-2:]] == [0, 10]
    ((grid, common),) = SWEEPS
    axes = parse_grid(parse(SweepOptions, shlex.split(grid)).grid)
    assert [len(values) for values in axes.values()] == [4, 2]
    assert (
        flags_of(shlex.split(common), axes)
        == "--splits 19 --split_index 4 --epochs 100 --model VGG19 --dataset cifar10"
    )
