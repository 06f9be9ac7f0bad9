"""Labels that never leave the edge: outputs come down, the loss is computed there, and all is learnt just the same."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import ProtocolError
from common.training.in_process import InProcess
from common.training.station import Station
from common.training.tail import Tail
from common.wire.messages import Activations, OutputGradients
from common.wire.tcp import Received
from discriminative.options import BaseOptions, ClientOptions
from discriminative.recipe import plan_job
from discriminative.train import Finished, train_in_process, train_with_server
from tests.serving import serving
from tests.test_resume import Killed, folder_of, killed_at, losses, values

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


def here(images: str, tmp_path: Path, **more: Any) -> Finished:
    options = BaseOptions(**values(images, tmp_path, **more))
    return train_in_process(plan_job(options), options)


def same(one: Finished, other: Finished) -> None:
    assert losses(one) == losses(other)
    for key in ("parameters_digest", "accuracy", "loss", "steps"):
        assert one.summary[key] == other.summary[key], key


@pytest.mark.parametrize("stale_it", [0, 3])
def test_it_is_the_same_as_with_labels_on_the_cloud(images: str, tmp_path: Path, stale_it: int) -> None:
    setting = {"stale_it": stale_it, "compress_up": "delta+int8", "compress_down": "ef+int8", "dropout": 0.2}
    expected = here(images, tmp_path / "cloud", labels="cloud", **setting)
    same(here(images, tmp_path / "edge", labels="edge", **setting), expected)
    with serving(tmp_path / "server") as server:
        ports = {"port": server.port, "hyperport": server.hyperport}
        options = ClientOptions(**values(images, tmp_path / "client", labels="edge", **setting, **ports))
        same(train_with_server(plan_job(options), options), expected)


def test_it_goes_on_and_it_moves(images: str, tmp_path: Path) -> None:
    setting = {"stale_it": 2, "compress": "none", "move": ("3:features.5",), "checkpoint_every": 2}
    expected = here(images, tmp_path / "cloud", labels="cloud", **setting)
    with pytest.MonkeyPatch.context() as patch, serving(tmp_path / "server") as server:
        ports = {"port": server.port, "hyperport": server.hyperport}
        killed_at(5, patch)
        options = ClientOptions(**values(images, tmp_path / "killed", labels="edge", **setting, **ports))
        with pytest.raises(Killed):
            train_with_server(plan_job(options), options)
        patch.undo()
        again = {"resume": folder_of(tmp_path / "killed"), "labels": "edge", **setting, **ports}
        options = ClientOptions(**values(images, tmp_path, **again))
        same(train_with_server(plan_job(options), options), expected)


def test_no_label_is_sent(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[Received] = []
    real = Station.decode

    def decode(self: Station, received: Received) -> Any:
        if isinstance(received.frame.message, Activations):
            uploads.append(received)
        return real(self, received)

    monkeypatch.setattr(Station, "decode", decode)
    here(images, tmp_path, labels="edge", stale_it=0)
    assert uploads
    for each in uploads:
        assert isinstance(each.frame.message, Activations)
        assert each.frame.message.labels.shape == (0,)
        assert len(each.frame.buffers[len(each.frame.message.payload.tensors)]) == 0


def test_gradients_of_outputs_that_were_not_sent(images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = InProcess._ask

    def ask(self: InProcess, parts: Any) -> Any:
        answer = real(self, parts)
        tail = self._station.tail
        assert isinstance(tail, Tail)
        if tail._open is not None:
            tail._open = None
        return answer

    monkeypatch.setattr(InProcess, "_ask", ask)
    with pytest.raises(ProtocolError, match="gradients of the outputs of step 0 came, which were not sent"):
        here(images, tmp_path, labels="edge", stale_it=0)
    assert OutputGradients.__struct_config__.tag == "output_gradients"
