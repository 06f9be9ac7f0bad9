"""Which connections are protected, what the folder of `create` holds, and how its faults are told."""

import datetime
import logging
import stat
import sys
from pathlib import Path

import pytest

from common.config import parse
from common.errors import UsageError
from common.wire import certificates
from common.wire.certificates import create, days_left
from common.wire.security import VARIABLE, client_security, is_loopback, main, server_security
from discriminative.options import ClientOptions
from discriminative.server_options import ServerOptions
from tests.secure import client_side, handshake, server_side
from tests.sockets import HOST

REMOTE = ("0.0.0.0", "192.0.2.1", "cloud.example.org", "::", "")  # noqa: S104
LOCAL = ("127.0.0.1", "127.5.5.5", "::1", "localhost", "LocalHost")


@pytest.fixture(autouse=True)
def _no_folder_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create(tmp_path / "security", (HOST,), 100, ())
    return tmp_path / "security"


class TestChoice:
    @pytest.mark.parametrize("ip", LOCAL)
    def test_nothing_is_asked_for_on_one_machine(self, ip: str) -> None:
        assert is_loopback(ip)
        assert server_security(ip, None, insecure=False) is None
        assert client_security(ip, None, insecure=False) is None

    @pytest.mark.parametrize("ip", REMOTE)
    def test_an_address_that_others_reach_needs_protection(self, ip: str) -> None:
        with pytest.raises(UsageError, match=r"can be reached from other machines: make certificates .* create"):
            server_security(ip, None, insecure=False)
        with pytest.raises(UsageError, match=r"is another machine: copy .* --security FOLDER; on a network that you"):
            client_security(ip, None, insecure=False)

    @pytest.mark.parametrize("ip", REMOTE)
    def test_or_that_one_says_to_do_without(self, ip: str, caplog: pytest.LogCaptureFixture) -> None:
        assert server_security(ip, None, insecure=True) is None
        assert client_security(ip, None, insecure=True) is None
        warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert len(warnings) == 2
        assert all(each.startswith("--insecure: ") for each in warnings)

    @pytest.mark.parametrize("ip", [HOST, "0.0.0.0"])  # noqa: S104
    def test_a_folder_protects_any_address(self, folder: Path, ip: str) -> None:
        assert server_security(ip, folder, insecure=False) is not None
        assert client_security(ip, folder, insecure=False) is not None

    def test_both_flags_at_once_are_refused(self, folder: Path) -> None:
        for choose in (server_security, client_security):
            with pytest.raises(UsageError, match="--security and --insecure say opposite things"):
                choose(HOST, folder, insecure=True)

    def test_the_folder_may_come_from_the_environment(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, str(folder))
        for choose in (server_security, client_security):
            assert choose(HOST, None, insecure=False) is not None
            assert choose(HOST, None, insecure=True) is None

    def test_flags_of_the_programs(self, tmp_path: Path) -> None:
        argv = ["--security", str(tmp_path)]
        assert parse(ServerOptions, argv).security == parse(ClientOptions, argv).security == tmp_path
        assert parse(ServerOptions, ["--insecure"]).insecure
        assert not parse(ClientOptions, []).insecure


class TestFolder:
    def test_nobody_else_reads_it(self, folder: Path) -> None:
        create(folder, (HOST,), 100, ["edge1"])
        for path in folder.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    def test_an_edge_gets_what_it_needs_and_no_more(self, folder: Path) -> None:
        create(folder, (HOST,), 100, ["edge1"])
        assert {each.name for each in (folder / "edge").iterdir()} == {"ca.pem", "token"}
        needed = {"ca.pem", "token", "client.pem", "client.key"}
        assert {each.name for each in (folder / "clients" / "edge1").iterdir()} == needed

    def test_renewing_keeps_ca_token_and_names(self, folder: Path) -> None:
        client = client_side(folder / "edge")
        before = {name: (folder / name).read_bytes() for name in ("ca.pem", "token", "server.pem")}
        assert create(folder, (), 500, ()) == (HOST, "localhost", "::1")
        after = {name: (folder / name).read_bytes() for name in before}
        assert [name for name in before if before[name] != after[name]] == ["server.pem"]
        assert handshake(client, server_side(folder)) == (None, None)
        assert 499 < days_left(folder / "server.pem") <= 500

    def test_names_of_this_machine_where_none_are_given(self, tmp_path: Path) -> None:
        names = create(tmp_path, (), 100, ())
        assert {"localhost", "127.0.0.1", "::1"} <= set(names)

    @pytest.mark.parametrize("name", ["a b", "http://x", "-" * 70 + "/", "*.*.*/x"])
    def test_a_name_that_is_none(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match="is neither a host name nor an address"):
            create(tmp_path, (name,), 100, ())

    @pytest.mark.parametrize("client", ["..", "a/b", "/tmp/x", ""])  # noqa: S108
    def test_a_client_that_is_no_folder(self, tmp_path: Path, client: str) -> None:
        with pytest.raises(UsageError, match="is no name for a folder"):
            create(tmp_path, (HOST,), 100, [client])

    def test_files_of_another_making_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "server.key").write_text("mine")
        with pytest.raises(UsageError, match=r"has server\.key of another making"):
            create(tmp_path, (HOST,), 100, ())
        assert (tmp_path / "server.key").read_text() == "mine"

    def test_a_ca_without_its_key(self, folder: Path) -> None:
        (folder / "ca.key").unlink()
        with pytest.raises(UsageError, match=r"has ca\.pem without the other"):
            create(folder, (HOST,), 100, ())

    def test_a_key_of_another_ca(self, folder: Path, tmp_path: Path) -> None:
        create(tmp_path / "other", (HOST,), 100, ())
        (tmp_path / "other" / "ca.key").replace(folder / "ca.key")
        with pytest.raises(UsageError, match=r"ca\.key does not belong to ca\.pem"):
            create(folder, (HOST,), 100, ())

    def test_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "new"
        monkeypatch.setattr(sys, "argv", ["security", "create", "--out", str(out), "--names", "cloud.example.org, ::2"])
        main()
        told = capsys.readouterr().out
        assert f"python -m discriminative.server --ip 0.0.0.0 --security {out}" in told
        assert "python -m discriminative.client --ip cloud.example.org --security" in told
        assert f"scp -r {out}/edge EDGE:security" in told
        assert (out / "token").read_text().strip() not in told

    @pytest.mark.parametrize(
        ("argv", "words"), [([], "say what to do"), (["make"], "say what to do"), (["create", "--days", "0"], "--days")]
    )
    def test_the_command_used_otherwise(self, monkeypatch: pytest.MonkeyPatch, argv: list[str], words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["security", *argv])
        with pytest.raises(UsageError, match=words):
            main()


class TestFaults:
    @pytest.mark.parametrize("name", ["server.pem", "server.key", "token"])
    def test_a_file_that_a_server_lacks(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(UsageError, match=rf"--security .* has no {name}; make them with `.* create --out"):
            server_security(HOST, folder, insecure=False)

    def test_an_edge_that_got_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"has no ca\.pem, token; copy them from the server's folder"):
            client_security(HOST, tmp_path / "nowhere", insecure=False)

    def test_a_key_of_another_certificate(self, folder: Path, tmp_path: Path) -> None:
        create(tmp_path / "other", (HOST,), 100, ())
        (tmp_path / "other" / "server.key").replace(folder / "server.key")
        with pytest.raises(UsageError, match="damaged or do not belong together"):
            server_security(HOST, folder, insecure=False)

    @pytest.mark.parametrize(
        "content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
    )
    def test_certificates_that_are_none(self, folder: Path, content: str) -> None:
        (folder / "ca.pem").write_text(content)
        (folder / "server.pem").write_text(content)
        with pytest.raises(UsageError, match=r"ca\.pem holds no certificate"):
            client_security(HOST, folder, insecure=False)
        with pytest.raises(UsageError, match="damaged or do not belong together"):
            server_security(HOST, folder, insecure=False)

    @pytest.mark.parametrize("content", ["", "short", "two words that are long enough to be a token", "\xff" * 40])
    def test_a_token_that_is_none(self, folder: Path, content: str) -> None:
        (folder / "token").write_bytes(content.encode("latin-1"))
        for choose in (server_security, client_security):
            with pytest.raises(UsageError, match="holds no token: that is one line of 32 characters") as caught:
                choose(HOST, folder, insecure=False)
            assert not content or content not in str(caught.value)

    def test_an_expired_certificate_is_told_at_the_start(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        later = certificates._now() + datetime.timedelta(days=200)
        monkeypatch.setattr(certificates, "_now", lambda: later)
        with pytest.raises(UsageError, match=r"server\.pem has expired; renew it with"):
            server_security(HOST, folder, insecure=False)

    def test_one_that_expires_soon_as_well(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        create(tmp_path, (HOST,), 5, ())
        assert server_security(HOST, tmp_path, insecure=False) is not None
        assert "expires in 4 days; renew it with" in caplog.text

    def test_a_token_that_others_can_read(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (folder / "token").chmod(0o644)
        assert client_security(HOST, folder, insecure=False) is not None
        assert "token can be read by other users of this machine; chmod 600" in caplog.text
