"""Training under TLS and token is the same training, and a server with them lets nobody else in."""

import logging
from pathlib import Path

import pytest

from common.errors import PeerError, SecurityError
from discriminative.options import ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import train_with_server
from tests.secure import client_side, made
from tests.serving import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_it_is_the_same_training(images: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server_side, edge = made(tmp_path / "security")
    digests, folders = [], []
    for security in (None, server_side):
        with serving(tmp_path / "server", security=security) as server:
            options = ClientOptions(
                model="resnet20",
                dataset=images,
                run_dir=tmp_path / "runs",
                epochs=1,
                batch_size=20,
                stale_it=1,
                port=server.port,
                hyperport=server.hyperport,
                security=tmp_path / "security" if security else None,
            )
            run = train_with_server(plan_job(options), options, edge if security else None)
            digests.append(run.summary["parameters_digest"])
            folders.append(run.folder)
            if security is None:
                with pytest.raises(SecurityError, match="speaks plain Tandem, this side TLS only"):
                    train_with_server(plan_job(options), options, edge)
                continue
            with pytest.raises(PeerError, match="this server takes TLS only"):
                train_with_server(plan_job(options), options)
            (tmp_path / "security" / "edge" / "token").write_text("y" * 43)
            with pytest.raises(PeerError, match="did not take the token"):
                train_with_server(plan_job(options), options, client_side(tmp_path / "security" / "edge"))
    assert digests[0] == digests[1]
    secret = (tmp_path / "security" / "token").read_text().strip()
    written = [path.read_bytes() for folder in (*folders, tmp_path / "server") for path in folder.rglob("*.json*")]
    assert written
    assert not any(secret.encode() in each for each in written)
    assert secret not in caplog.text
