"""A run knows its link: from its own traffic while it trains, in its records, and for its codecs."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import PeerError
from common.link.contexts import LinkContext
from common.link.emulate import Link, Route
from common.link.trace import Trace
from common.training.carrier import encode_upload
from common.training.journal import Journal
from common.training.monitor import LinkMonitor
from common.training.serve import Server
from common.training.timed import busy_timer
from common.wire.messages import Ping, Pong
from common.wire.structs import TailTimes
from common.wire.tcp import CONTROL_LIMITS, expect
from discriminative.options import ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import train_with_server
from tests.fuzz.small import batch, settings
from tests.sockets import HOST
from tests.test_server_faults import opened, options

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.slow,
    pytest.mark.skipif(
        os.getloadavg()[0] > 0.6 * (os.cpu_count() or 1), reason="the machine is busy: a link's rate cannot be timed"
    ),
]

MBPS = 1e6


@contextmanager
def linked(server: Server, link: LinkContext, trace: Trace | None = None) -> Iterator[dict[str, Any]]:
    """Flags of a client behind an emulated link to a server."""
    routes = [Route((HOST, 0), (HOST, port)) for port in (server.port, server.hyperport)]
    with Link(link, routes, up=trace, down=trace) as relay:
        (_, port), (_, hyperport) = relay.addresses
        yield {"port": port, "hyperport": hyperport}


def train(ports: dict[str, Any], images: str, tmp_path: Path, **more: Any) -> tuple[dict[str, Any], list[Any]]:
    """Summary and rows of a run whose messages have 82 kB up and 164 kB down."""
    flags = {"cut": "features.3", "compress_up": "int8", "compress_down": "fp16", "checkpoint_every": -1}
    chosen: ClientOptions = options(images, tmp_path, **{**flags, **ports, **more})
    run = train_with_server(plan_job(chosen), chosen)
    return run.summary, [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("stale_it", [0, 4])
def test_the_estimate_stays_within_a_tenth_of_a_constant_link(
    server: Server, images: str, tmp_path: Path, stale_it: int
) -> None:
    with linked(server, LinkContext("", 20, 20, 20)) as ports:
        summary, rows = train(ports, images, tmp_path, stale_it=stale_it, epochs=8)
    for way in ("up", "down"):
        known = [row[f"{way}_bps"] for row in rows if f"{way}_bps" in row]
        assert len(known) >= len(rows) - 2
        assert all(bps == pytest.approx(20 * MBPS, rel=0.1) for bps in known)
        assert summary[f"{way}_bps"] == pytest.approx(20 * MBPS, rel=0.1)
    assert 0.02 <= summary["rtt_s"] < 0.05


@pytest.mark.slow
def test_it_follows_a_link_that_changes(server: Server, images: str, tmp_path: Path) -> None:
    trace = Trace([0, 4, 600], [0, 4 * 2.5e6, 4 * 2.5e6 + 596 * 0.625e6])  # 20 Mbit/s, then 5
    begun_s = time.perf_counter()
    with linked(server, LinkContext("", 20, 20, 20), trace) as ports:
        _, rows = train(ports, images, tmp_path, cut="features.5", stale_it=1, epochs=40)
    assert time.perf_counter() - begun_s > 4 + 10
    for way in ("up", "down"):
        assert any(row.get(f"{way}_bps", 0) == pytest.approx(20 * MBPS, rel=0.1) for row in rows)
        assert rows[-1][f"{way}_bps"] == pytest.approx(5 * MBPS, rel=0.1)


@pytest.mark.slow
def test_a_run_in_one_process_has_no_link(images: str, tmp_path: Path, server: Server) -> None:
    summary, rows = train({"port": server.port, "hyperport": server.hyperport}, images, tmp_path)
    assert 0 < summary["rtt_s"] < 1  # of loopback, which is too fast to tell more
    assert all("rtt_s" in row for row in rows)


def test_the_journal_tells_what_came() -> None:
    journal = Journal(busy_timer("cpu"))
    journal.received(0, 1.0, 0.1, 300_000, training=True, timed_bytes=250_000)  # nobody is told
    assert journal.up_bps is None
    journal.monitor = LinkMonitor()
    journal.received(0, 1.0, 0.1, 300_000, training=True, timed_bytes=250_000)
    journal.tail_worked(0, TailTimes(receive=(5.0, 0.2), timed_bytes=250_000), training=False)
    context = journal.monitor.context()
    assert context.down_bps == pytest.approx(20 * MBPS)
    assert context.up_bps == journal.up_bps == pytest.approx(10 * MBPS)
    assert context.rtt_s is None


def test_the_codec_of_uploads_knows_the_rate() -> None:
    """As ``auto`` promises: it packs where that pays on the measured link."""
    (setting, *_) = settings(("int8+auto",))
    head, journal = setting.head(), Journal(busy_timer("cpu"))
    journal.monitor = LinkMonitor()
    for step, mbps in enumerate((None, 20)):
        if mbps is not None:
            journal.monitor.transferred("up", mbps * 125_000, 1.0)
        inputs, labels = batch(step)
        encode_upload(head, head.forward(step, 0, (inputs,), labels, torch.arange(len(labels))), journal)
        assert head.codec_up.link_bps == (None if mbps is None else pytest.approx(mbps * MBPS))


@pytest.mark.slow
def test_a_server_answers_probes_behind_its_first_answer(server: Server, images: str, tmp_path: Path) -> None:
    session = opened(server, plan_job(options(images, tmp_path)))
    with session.control as control, session.training:
        control.send(Ping(1, CONTROL_LIMITS.body_bytes), [bytes(CONTROL_LIMITS.body_bytes)])
        received = control.receive()
        assert expect(received.frame, Pong).number == 1
        assert received.frame.nbytes > CONTROL_LIMITS.body_bytes
        control.send(Ping(2, CONTROL_LIMITS.body_bytes + 1))
        with pytest.raises(PeerError, match="the limit here is 1048576"):
            control.receive()
