"""Codecs in training: the same run over any link, refusals before it starts, and what feedback is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.codec import load_own
from common.datasets.registry import load_dataset
from common.errors import PeerError, UsageError
from common.training.prepare import largest_body
from common.training.remote import open_session
from common.training.serve import Server
from discriminative import recipe
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_codec_own import example

PAIRS = [
    ("int4/c/s+zstd", "int8/c/s+zstd"),
    ("delta+int4/c/s+zstd", "ef+topk:0.1+int8/c"),
    ("taylor+delta+topk:0.2+int8", "ef+int2/s+lz4"),
    ("randtopk:0.25+int4/c+auto", "bf16+shuffle+zstd"),
]


def flags(images: str, run_dir: Path, **more: Any) -> dict[str, Any]:
    shared = {"dataset": images, "run_dir": run_dir, "seed": 3, "epochs": 2, "batch_size": 16, "lr": 0.02}
    return {**shared, "model": "resnet20", "cut": "features.6", "stale_it": 2, **more}


def result(run: Finished) -> tuple[list[float], str, float]:
    rows = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows], run.summary["parameters_digest"], run.summary["loss"]


def in_process(**values: Any) -> Finished:
    options = BaseOptions(**values)
    return train_in_process(plan_job(options), options)


def over_tcp(server: Server, **values: Any) -> Finished:
    options = ClientOptions(port=server.port, hyperport=server.hyperport, **values)
    return train_with_server(plan_job(options), options)


@pytest.mark.slow
@pytest.mark.parametrize(("up", "down"), PAIRS)
def test_a_run_is_the_same_twice_and_over_tcp(server: Server, images: str, tmp_path: Path, up: str, down: str) -> None:
    values = flags(images, tmp_path, compress_up=up, compress_down=down)

    first, second, remote = in_process(**values), in_process(**values), over_tcp(server, **values)

    assert result(first) == result(second) == result(remote)
    assert result(in_process(**{**values, "seed": 4})) != result(first)
    if "auto" not in up:
        assert remote.summary["bytes_up_per_step"] == first.summary["bytes_up_per_step"]


@pytest.mark.slow
def test_the_published_flag_is_taylor(images: str, tmp_path: Path) -> None:
    values = flags(images, tmp_path, compress_down="none", lr=0.1)

    by_flag = in_process(**values, compress_up="int4", use_EF=1)

    assert result(by_flag)[0] == result(in_process(**values, compress_up="taylor+int4"))[0]
    assert result(by_flag)[0] != result(in_process(**values, compress_up="int4"))[0]


@pytest.mark.slow
def test_shuffled_numbers_are_unsplit_training(images: str, tmp_path: Path) -> None:
    values = flags(images, tmp_path, stale_it=0, cut="features.4.branch.1")

    assert result(in_process(**values, compress="none+shuffle+zstd")) == result(in_process(**values, compress="none"))


@pytest.mark.slow
def test_a_codec_of_ones_own_on_both_sides(images: str, tmp_path: Path) -> None:
    path = tmp_path / "signs.py"
    path.write_text(example("BothSides"))
    values = flags(images, tmp_path, compress_up="fp16", compress_down=f"ef+{path}:BothSides")
    with serving(tmp_path / "server") as server:
        with pytest.raises(PeerError, match="this machine has loaded no codec 'own:Elsewhere'"):
            _open_with(server, values, "own:Elsewhere")
        assert load_own(f"{path}:BothSides") == "own:BothSides"  # as a server does with --own_codec
        assert result(over_tcp(server, **values)) == result(in_process(**values))


def _open_with(server: Server, values: dict[str, Any], codec: str) -> None:
    """Open a session whose job names a codec that only its client would have."""
    plan = plan_job(ClientOptions(**{**values, "compress_down": "fp16"}))
    job = msgspec.structs.replace(plan.job, compress_up=codec)
    open_session("127.0.0.1", server.port, server.hyperport, job, largest_body(plan.prepared.graph, job))


def test_delta_with_random_augmentation_is_refused(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        recipe, "load_dataset", lambda *args, **more: replace(load_dataset(*args, **more), augment=True)
    )
    values = flags(images, tmp_path, compress_up="taylor+delta+int4/c+zstd")

    with pytest.raises(UsageError, match=r"cropped and mirrored .* use taylor\+int4/c\+zstd, or images that are not"):
        plan_job(BaseOptions(**values))


@pytest.mark.slow
def test_memory_that_the_data_set_would_not_fit_is_refused_before_training(images: str, tmp_path: Path) -> None:
    values = flags(images, tmp_path, compress_up="delta+int4/c+zstd")
    with pytest.raises(UsageError, match=r"would remember 32.0 KiB of each of 40 samples, 2 MiB on each side; the l"):
        in_process(**values, codec_memory_mb=1)
    with (
        serving(tmp_path / "server", codec_memory_mb=1) as server,
        pytest.raises(PeerError, match=r"delta\+int4/c\+zstd would remember .* the limit is 1"),
    ):
        over_tcp(server, **values)
