"""Activations that stay on the cloud: each sample's cross once, and the run is the one that sends them every time."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from common.codec import Context, Encoded, make_codec
from common.codec.limit import MemoryLimit
from common.errors import CodecError, JobRefused, PeerError, ProtocolError, UsageError
from common.partition.layout import pack
from common.training.activation_cache import KEPT, CacheIndex, CachingCodec, require_repeatable
from common.training.head import Head
from common.training.session import check_open
from common.wire.structs import Payload, TensorSpec
from discriminative import recipe
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_labels_edge import same
from tests.test_resume import Killed, folder_of, killed_at, server_dies_at, values
from tests.test_session_rules import request
from tests.workload import options, write_samples

FROZEN = {"split_index": 3, "freeze": 3, "epochs": 3, "compress": "none", "batch_size": 8}


def run(images: str, folder: Path, **more: Any) -> Finished:
    options = BaseOptions(**values(images, folder, **{**FROZEN, **more}))
    return train_in_process(plan_job(options), options)


def remote(images: str, folder: Path, server: Any, **more: Any) -> Finished:
    ports = {"port": server.port, "hyperport": server.hyperport}
    options = ClientOptions(**values(images, folder, **{**FROZEN, **ports, "reconnect_s": 20.0, **more}))
    return train_with_server(plan_job(options), options)


def rows(run: Finished) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("setting", [{"stale_it": 0}, {"stale_it": 3, "labels": "edge"}, {"stale_it": 2, "cut": "0"}])
def test_the_run_is_the_one_without_and_sends_each_sample_once(
    images: str, tmp_path: Path, setting: dict[str, Any]
) -> None:
    if "cut" in setting:
        setting = {**setting, "split_index": None, "freeze": 0}
    expected = run(images, tmp_path / "without", **setting)
    here = run(images, tmp_path / "with", cache_activations=True, **setting)
    same(here, expected)
    first, later = rows(here)[:5], rows(here)[5:]
    assert len(later) == 10
    assert [row["bytes_up"] for row in first] == [row["bytes_up"] for row in rows(expected)[:5]]
    most = 600 if setting.get("labels") != "edge" else 1200  # with labels there, the loss's gradients go up as well
    assert max(row["bytes_up"] for row in later) < most
    assert all(row["recalled"] for row in later)
    assert not any("recalled" in row for row in first)
    assert here.summary["recalled_steps"] == 10
    assert here.summary["bytes_up_per_recalled_step"] == np.mean([row["bytes_up"] for row in later])
    assert max(row["bytes_down"] for row in rows(here)) < most
    assert "recalled_steps" not in expected.summary


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("codec", ["none", "int4/s+zstd"])
def test_over_a_network_as_in_one_process_also_when_it_is_killed(images: str, tmp_path: Path, codec: str) -> None:
    setting = {"cache_activations": True, "stale_it": 2, "compress": "", "compress_up": codec, "checkpoint_every": 3}
    expected = run(images, tmp_path / "base", **setting)
    with serving(tmp_path / "server") as server:
        same(remote(images, tmp_path / "client", server, **setting), expected)
        with pytest.MonkeyPatch.context() as patch:
            killed_at(7, patch)
            with pytest.raises(Killed):
                remote(images, tmp_path / "killed", server, **setting)
    with serving(tmp_path / "server") as server, pytest.MonkeyPatch.context() as patch:
        resumed = remote(images, tmp_path, server, resume=folder_of(tmp_path / "killed"), **setting)
        same(resumed, expected)
        assert resumed.summary["recalled_steps"] == 10
        with server_dies_at(3, server, tmp_path, patch):
            same(remote(images, tmp_path / "restarted", server, **setting), expected)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_evaluation_and_a_replayed_epoch_compute_no_forward_pass(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[bool] = []
    real = Head._run

    def counted(self: Head, step: int, inputs: Any, training: bool) -> Any:
        passes.append(training)
        return real(self, step, inputs, training)

    monkeypatch.setattr(Head, "_run", counted)
    run(images, tmp_path, cache_activations=True, stale_it=2)
    trials = 2
    assert passes.count(True) == trials + 5
    assert passes.count(False) == 3


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_samples_that_are_left_out_of_an_epoch_cross_when_they_come(images: str, tmp_path: Path) -> None:
    # 40 samples in batches of 13: the last one would be a single sample, and is left out.
    same(
        run(images, tmp_path / "with", batch_size=13, cache_activations=True, stale_it=1),
        run(images, tmp_path / "without", batch_size=13, stale_it=1),
    )


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_move_begins_anew(images: str, tmp_path: Path) -> None:
    setting = {"freeze": 4, "split_index": 4, "stale_it": 1, "move": ("5:features.1",)}
    moved = run(images, tmp_path / "with", cache_activations=True, **setting)
    same(moved, run(images, tmp_path / "without", **setting))
    assert [row["step"] for row in rows(moved) if "recalled" in row] == [10, 11, 12, 13, 14]
    with pytest.raises(UsageError, match=r"--move 3:features.5: --cache_activations: the head up to features.5"):
        run(images, tmp_path / "behind", cache_activations=True, **{**setting, "move": ("3:features.5",)})


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_texts(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, train=6)
    results = []
    for cached in (False, True):
        asked = options(
            samples, tmp_path, model="BILSTM", split_index=1, freeze=1, epochs=2, stale_it=1, cache_activations=cached
        )
        results.append(train_in_process(plan_job(asked), asked))
    same(*results)
    assert results[1].summary["recalled_steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": 2}, r"the head up to features\..* is not all frozen, .*--freeze"),
        ({"compress": "", "compress_up": "delta+int8"}, "what changed since then; use int8"),
        ({"dataset": "cifar"}, "cropped and mirrored at random.*--no_augment"),
        ({"codec_memory_mb": 1, "batch_size": 4}, "would keep 64.0 KiB of each of 60 samples, 4 MiB.*the limit is 1"),
    ],
)
def test_what_cannot_be_is_told_beforehand(
    images: str, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if changes.get("dataset"):
        changes = {}
        real: Any = recipe._load
        monkeypatch.setattr(recipe, "_load", lambda *args: replace(real(*args), augment=True))
    with pytest.raises(UsageError, match=message):
        run(images, tmp_path, cache_activations=True, **changes)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_says_what_it_will_not_keep(images: str, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "server", codec_memory_mb=1) as server,
        pytest.raises(
            PeerError, match=r"would keep 64\.0 KiB of each of 60 samples, 4 MiB on the server; the limit is 1"
        ),
    ):
        remote(images, tmp_path, server, cache_activations=True)


class TestCachingCodec:
    def pair(self, codec: str = "none") -> tuple[CacheIndex, CachingCodec]:
        return CacheIndex(), CachingCodec(make_codec(codec, "up"), MemoryLimit())

    def send(self, index: CacheIndex, cache: CachingCodec, values: torch.Tensor, ids: list[int]) -> torch.Tensor:
        storages, views = pack([values])
        at = Context(0, True, torch.tensor(ids), views)
        index.sent(storages, torch.tensor(ids), views, training=True)
        return cache.decode(make_codec("none", "up").encode(storages, at), at)[0]

    def recall(self, index: CacheIndex, cache: CachingCodec, ids: list[int]) -> torch.Tensor:
        encoded, views = index.recalled(len(ids), training=True)
        assert encoded.nbytes == 0
        return cache.decode(encoded, Context(1, True, torch.tensor(ids), views))[0]

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_rows_come_back_by_id_in_any_order(self, layout: torch.memory_format) -> None:
        index, cache = self.pair()
        one, other = (torch.rand(2, 3, 4, 5).to(memory_format=layout) for _ in range(2))
        self.send(index, cache, one, [7, 3])
        self.send(index, cache, other, [1, 9])
        recalled = self.recall(index, cache, [9, 7])
        assert torch.equal(recalled, pack([torch.stack([other[1], one[0]]).to(memory_format=layout)])[0][0])

    def test_what_is_known_and_what_is_not(self) -> None:
        index, cache = self.pair()
        assert not index.knows(torch.tensor([1]), training=True)
        self.send(index, cache, torch.rand(2, 4), [1, 2])
        assert index.knows(torch.tensor([2, 1]), training=True)
        assert not index.knows(torch.tensor([2, 1]), training=False)
        assert not index.knows(torch.tensor([1, 3]), training=True)
        assert not index.knows(torch.tensor([1]), training=True)  # no batch of one has shown its form

    def test_state(self) -> None:
        index, cache = self.pair()
        self.send(index, cache, rows := torch.rand(2, 4), [1, 2])
        index_again, cache_again = self.pair()
        index_again.load_state(index.state())
        cache_again.load_state(cache.state())
        assert torch.equal(self.recall(index_again, cache_again, [2, 1]), rows[[1, 0]])

    def test_what_does_not_consist_of_samples_is_not_kept(self) -> None:
        index, cache = self.pair()
        self.send(index, cache, torch.rand(5), [1, 2])
        assert not index.knows(torch.tensor([1, 2]), training=True)
        assert not cache.state()

    @pytest.mark.parametrize(
        ("payload", "buffers", "message"),
        [
            (Payload(KEPT, (TensorSpec("float32", (2, 4)),)), (b"",), "sample 5 are said to be kept, and never came"),
            (Payload(KEPT, (TensorSpec("float32", (2, 5)),)), (b"",), "sample 1 are said to be kept, and never came"),
            (Payload(KEPT, (TensorSpec("float32", (3, 3)),)), (b"",), "in a form that none are kept in"),
            (Payload(KEPT, (TensorSpec("float32", (0, 3)),)), (b"",), "in a form that none are kept in"),
            (Payload(KEPT, (TensorSpec("float32", (2, 4)),)), (b"x",), "in a form that none are kept in"),
        ],
    )
    def test_a_hostile_peer(self, payload: Payload, buffers: tuple[bytes, ...], message: str) -> None:
        index, cache = self.pair()
        self.send(index, cache, torch.rand(2, 4), [1, 2])
        with pytest.raises(ProtocolError, match=re.escape(message)):
            cache.decode(Encoded(payload, buffers), Context(1, True, torch.tensor([1, 5])))

    def test_its_memory_is_bounded(self) -> None:
        cache = CachingCodec(make_codec("none", "up"), MemoryLimit(100))
        with pytest.raises(CodecError, match="raise --codec_memory_mb"):
            self.send(CacheIndex(), cache, torch.rand(2, 20), [1, 2])


class TestRepeatable:
    def test_samples_of_their_own(self) -> None:
        require_repeatable(lambda x: ([2 * x, x.sum(1)], False), torch.rand(3, 4))

    @pytest.mark.parametrize(
        ("run", "message"),
        [
            (lambda x: ([x], True), "draws random numbers"),
            (lambda x: ([x - x.mean(0)], False), "depends on the other samples"),
            (lambda x: ([x.T.contiguous()], False), "not lie sample by sample"),
            (lambda x: ([x.sum()], False), "not lie sample by sample"),
        ],
    )
    def test_what_is_refused(self, run: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            require_repeatable(run, torch.rand(3, 4))


def test_a_job_of_absurd_size_is_refused() -> None:
    with pytest.raises(JobRefused, match="kept is -1"):
        check_open(msgspec.structs.replace(request(kept=-1)))
