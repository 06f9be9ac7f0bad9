"""Who is let in and who is not, and that both sides say what was wrong and the way out."""

import contextlib
import datetime
import logging
import ssl
from pathlib import Path

import pytest

from common.errors import ConnectionLost, PeerError, ProtocolError, SecurityError
from common.wire import certificates
from common.wire.admission import ClientSecurity, ServerSecurity
from common.wire.certificates import create
from common.wire.messages import Attach, Attached, Challenge, Error, Proof, Welcome
from common.wire.proof import NONCE_BYTES, Exchange, Token, certificate_digest, fresh_nonce
from common.wire.tcp import expect
from tests.secure import client_side, handshake, made, outcomes, pair, server_side
from tests.sockets import HOST

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def securities(tmp_path: Path) -> tuple[ServerSecurity, ClientSecurity]:
    return made(tmp_path / "security")


def told(failures: tuple[BaseException | None, BaseException | None], client: str, server: str) -> None:
    """Both sides failed, and these words are in what they say."""
    assert isinstance(failures[0], (SecurityError, PeerError)), failures
    assert isinstance(failures[1], (SecurityError, ProtocolError)), failures
    assert client in str(failures[0])
    assert server in str(failures[1])


def test_those_who_belong_together_are_through(securities: tuple[ServerSecurity, ClientSecurity]) -> None:
    server, client = securities
    assert handshake(client, server) == (None, None)
    with pair() as (near, far):
        outcomes((near, far), lambda: client.introduce(near, HOST), lambda: server.admit(far))
        near.send(Attach("x", b"", 0))
        assert far.receive().frame.message == Attach("x", b"", 0)
        far.send(Attached(0))
        assert near.receive().frame.message == Attached(0)


class TestCertificates:
    def test_of_another_ca(self, securities: tuple[ServerSecurity, ClientSecurity], tmp_path: Path) -> None:
        _, client = made(tmp_path / "other")
        told(
            handshake(client, securities[0]),
            "its certificate was not signed by the CA in " + str(tmp_path / "other" / "ca.pem"),
            "it does not know the CA of this server's certificate: copy ca.pem",
        )

    def test_for_another_name(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        server, client = securities
        told(
            handshake(client, server, "cloud.example.org"),
            "its certificate is for other names than cloud.example.org",
            "it may call the server by a name that is not in it",
        )

    def test_for_another_address(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        server, client = securities
        told(handshake(client, server, "192.0.2.7"), "create --names 192.0.2.7", "a name that is not in it")

    @pytest.mark.parametrize(
        ("years", "client_words", "server_words"),
        [(-3, "its certificate has expired: renew it there", "renew it with"), (3, "is not valid yet", "clock")],
        ids=["expired", "not yet valid"],
    )
    def test_of_another_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int, client_words: str, server_words: str
    ) -> None:
        then = certificates._now() + datetime.timedelta(days=365 * years)
        create(tmp_path, (HOST,), 1, ())  # a CA of today, and a server's certificate of then
        with monkeypatch.context() as patch:
            patch.setattr(certificates, "_now", lambda: then)
            server, client = made(tmp_path)
        told(handshake(client, server), client_words, server_words)

    def test_of_clients_where_they_are_asked_for(self, tmp_path: Path) -> None:
        create(tmp_path, (HOST,), 100, ["edge1"])
        server, own = server_side(tmp_path), tmp_path / "clients" / "edge1"
        assert handshake(client_side(own), server) == (None, None)
        told(
            handshake(client_side(tmp_path / "edge"), server),
            "it asks for a client certificate: put client.pem and client.key beside ca.pem",
            "it has no client certificate, which this server asks for",
        )
        create(tmp_path / "other", (HOST,), 100, ["edge1"])
        for name in ("client.pem", "client.key"):
            (own / name).write_bytes((tmp_path / "other" / "clients" / "edge1" / name).read_bytes())
        told(handshake(client_side(own), server), "does not know the CA of this side's client.pem", "its client")

    def test_of_a_server_are_none_of_a_client(self, tmp_path: Path) -> None:
        create(tmp_path, (HOST,), 100, ["edge1"])
        own = tmp_path / "clients" / "edge1"
        for kind in ("pem", "key"):
            (own / f"client.{kind}").write_bytes((tmp_path / f"server.{kind}").read_bytes())
        failures = handshake(client_side(own), server_side(tmp_path))
        assert all(isinstance(each, SecurityError) for each in failures)


class TestProtocols:
    def test_a_plain_client_and_a_server_with_tls(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        with pair() as (near, far):

            def speak() -> None:
                near.send(Attach("x", b"", 0))
                near.receive()

            told(
                outcomes((near, far), speak, lambda: securities[0].admit(far)),
                "refused the connection: this server takes TLS only: give the client --security FOLDER",
                "it spoke plain Tandem; this server takes TLS only",
            )

    def test_a_client_with_tls_and_a_plain_server(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        with pair() as (near, far):

            def serve() -> None:
                try:
                    far.receive()
                except ProtocolError as error:
                    far.refuse(Error("protocol", str(error)))
                    raise

            told(
                outcomes((near, far), lambda: securities[1].introduce(near, HOST), serve),
                "speaks plain Tandem, this side TLS only; there is no TLS: start that server with --security",
                "the peer speaks TLS, and this side was started without it: give both sides --security FOLDER",
            )

    def test_a_server_of_something_else(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        with pair() as (near, far):

            def serve() -> None:
                far._socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            failure, _ = outcomes((near, far), lambda: securities[1].introduce(near, HOST), serve)
        assert "speaks neither TLS nor Tandem (its first bytes are b'HTTP/')" in str(failure)

    def test_a_client_of_something_else(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        with pair() as (near, far):

            def speak() -> None:
                near._socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
                near.receive()

            failures = outcomes((near, far), speak, lambda: securities[0].admit(far))
        told(failures, "takes TLS only", "it spoke neither TLS nor Tandem")

    def test_an_older_tls(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(securities[1].ca_file)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        client = ClientSecurity(old, securities[1].token, securities[1].ca_file)
        told(handshake(client, securities[0]), "it does not speak TLS 1.3", "it does not speak TLS 1.3")


class TestToken:
    def test_another_one(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        server, client = securities
        other = ClientSecurity(client.context, Token(b"x" * 43), client.ca_file)
        told(
            handshake(other, server),
            "refused the connection: this server did not take the token: copy the file token",
            "its token is another one than here",
        )

    def test_a_server_that_does_not_know_it(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        """It has the right certificate and lets everyone in, and yet the client sends it nothing."""
        server, client = securities
        with pair() as (near, far):

            def serve() -> None:
                far.use_tls(server.context)
                far.send(Challenge(fresh_nonce()))
                far.receive()
                far.send(Welcome(bytes(32)))
                with contextlib.suppress(ConnectionLost):
                    far.receive()

            failure, _ = outcomes((near, far), lambda: client.introduce(near, HOST), serve)
        assert isinstance(failure, SecurityError)
        assert "does not know the token" in str(failure)

    def test_a_proof_cannot_be_used_again(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        server, client = securities
        heard: list[Proof] = []
        with pair() as (near, far):

            def listen() -> None:
                far.use_tls(server.context)
                far.send(Challenge(fresh_nonce()))
                heard.append(expect(far.receive().frame, Proof))
                far.close()

            outcomes((near, far), lambda: client.introduce(near, HOST), listen)
        failures = self.proving(securities, lambda challenge: heard[0])
        assert "its token is another one" in str(failures[1])

    def test_a_servers_proof_is_none_of_a_client(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        """Somebody who lets the server itself answer its challenge, on another connection."""
        server, _ = securities

        def reflect(challenge: Challenge) -> Proof:
            exchange = Exchange(challenge.nonce, challenge.nonce, server.certificate_digest)
            return Proof(challenge.nonce, server.token.prove("server", exchange))

        assert "its token is another one" in str(self.proving(securities, reflect)[1])

    @pytest.mark.parametrize("nbytes", [0, 31, 33, 60_000])
    def test_a_nonce_of_another_length(self, securities: tuple[ServerSecurity, ClientSecurity], nbytes: int) -> None:
        failures = self.proving(securities, lambda _: Proof(bytes(nbytes), bytes(32)))
        assert isinstance(failures[1], ProtocolError)
        assert f"a nonce of {nbytes} bytes came; it has {NONCE_BYTES}" in str(failures[1])

    def test_nothing_else_comes_first(self, securities: tuple[ServerSecurity, ClientSecurity]) -> None:
        failures = self.proving(securities, lambda _: Attach("x", b"", 0))
        assert "'attach' where 'proof' was due" in str(failures[1])

    def proving(
        self, securities: tuple[ServerSecurity, ClientSecurity], answer: object
    ) -> tuple[BaseException | None, BaseException | None]:
        """A client that answers the challenge in its own way."""
        server, client = securities
        with pair() as (near, far):

            def speak() -> None:
                near.use_tls(client.context, hostname=HOST)
                near.send(answer(expect(near.receive().frame, Challenge)))  # type: ignore[operator]
                near.receive()

            return outcomes((near, far), speak, lambda: server.admit(far))

    def test_it_is_bound_to_the_certificate(self) -> None:
        token, challenge, nonce = Token(b"t" * 43), fresh_nonce(), fresh_nonce()
        mine = Exchange(challenge, nonce, certificate_digest(b"mine"))
        proof = token.prove("client", mine)
        token.check("client", mine, proof)
        with pytest.raises(SecurityError):
            token.check("client", Exchange(challenge, nonce, certificate_digest(b"theirs")), proof)

    def test_no_secret_is_shown(
        self, securities: tuple[ServerSecurity, ClientSecurity], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server, client = securities
        secret = (tmp_path / "security" / "token").read_text().strip()
        other = ClientSecurity(client.context, Token(secret.swapcase().encode()), client.ca_file)
        texts = [repr(server), repr(client), str(client.token), *map(str, handshake(other, server)), caplog.text]
        for text in texts:
            assert secret not in text
            assert secret.swapcase() not in text


def test_a_client_whose_proof_never_comes_is_dropped(securities: tuple[ServerSecurity, ClientSecurity]) -> None:
    server, client = securities
    with pair() as (near, far):
        far.set_deadline(0.1)

        def wait() -> None:
            near.use_tls(client.context, hostname=HOST)
            near.receive()
            near.receive()

        _, failure = outcomes((near, far), wait, lambda: server.admit(far))
    assert "was not through with its handshake after 0.1 s" in str(failure)
