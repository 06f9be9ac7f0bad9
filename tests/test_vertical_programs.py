"""The vertical workload's programs, as their users start them."""

import json
import socket
import sys
from pathlib import Path

import pytest

from common.errors import ConnectionLost, UsageError
from common.training.serve import Server
from DIN import base, client, server
from DIN.options import ClientOptions

pytestmark = pytest.mark.timeout(120)


def called(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *flags])


@pytest.mark.slow
def test_all_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called(monkeypatch, *f"--epochs 1 --stale_it 1 --run_dir {tmp_path} --threads 1 --label_owner a".split())
    base.main()
    (folder,) = tmp_path.iterdir()
    summaries = [json.loads((folder / name / "summary.json").read_text()) for name in "AB"]
    assert [each["party"] for each in summaries] == ["A", "B"]
    assert 0.5 < summaries[0]["auc"] < 0.9
    assert "auc" not in summaries[1]
    told = capsys.readouterr().out
    assert f"party A: AUC {summaries[0]['auc']:.4f}, GAUC" in told
    assert "party B: trained (a has the labels, and the scores)" in told
    assert "the most that is possible on synthetic: AUC 0.8" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--party B", "this program is party A"),
        ("--parties 11", "shared by 2 to 10 parties"),
        ("--label_owner C", "there is no party 'C'; of 2 they are A, B"),
        ("--salt " + 65 * "s", "64 are the most"),
        ("--use_EF 1 --compress none", "has no error"),
        ("--batch_size 1", "it must be 2 or more"),
        ("--portA 70000", "ports go from 0 to 65535"),
        ("--optim sgd", "unknown --optim"),
    ],
)
def test_wrong_usage(monkeypatch: pytest.MonkeyPatch, flags: str, words: str) -> None:
    called(monkeypatch, *flags.split())
    with pytest.raises(UsageError, match=words):
        client.main("A")


def test_a_party_finds_its_port() -> None:
    parties = [ClientOptions(party=name, parties=3, portA=1, portB=2) for name in ("A", "2", "c")]
    assert [each.port for each in parties] == [1, 2, 2]


@pytest.mark.parametrize(("port_a", "port_b", "training"), [(0, 0, 2), (5, 5, 1)])
def test_a_server_listens_for_each_party(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    port_a: int,
    port_b: int,
    training: int,
) -> None:
    """Or for both on one port; what it listens on is printed."""

    class Listed(Server):
        def __init__(self, *args: object, port: int, more_ports: tuple[int, ...], **more: object) -> None:
            assert len((port, *more_ports)) == training
            super().__init__(*args, port=0, more_ports=more_ports and (0,), **more)  # type: ignore[arg-type]

        def serve(self) -> None:
            """Nobody comes."""

    monkeypatch.setattr(server, "Server", Listed)
    flags = f"--portA {port_a} --portB {port_b} --hyperport 0 --run_dir {tmp_path}"
    called(monkeypatch, *flags.split())
    server.main()
    *_, a, b, _ = (int(word.rstrip(",")) for word in capsys.readouterr().out.split() if word.rstrip(",").isdigit())
    assert (a == b) == (training == 1)


@pytest.mark.parametrize("busy", ["portA", "portB"])
def test_a_busy_port_is_told_by_its_own_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"portA": 0, "portB": 0, busy: taken.getsockname()[1]}
        flags = [word for name, port in ports.items() for word in (f"--{name}", str(port))]
        called(monkeypatch, *flags, "--ip", "127.0.0.1", "--hyperport", "0", "--run_dir", str(tmp_path))
        with pytest.raises(ConnectionLost, match=rf"\(--{busy}\).*choose another with --{busy}"):
            server.main()
