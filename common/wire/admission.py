"""The first words of a protected connection: TLS, then each side proves to the other that it knows the token."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ConnectionLost, ProtocolError, SecurityError, UsageError
from common.wire.framing import MAGIC
from common.wire.messages import Challenge, Error, Proof, Welcome
from common.wire.proof import Exchange, Token, certificate_digest, fresh_nonce
from common.wire.reasons import client_reason, server_reason
from common.wire.tcp import HANDSHAKE_TIMEOUT_S, Connection, expect
from common.wire.tls import NotTls

TURNED_AWAY = bytes([21, 3, 3, 0, 2, 2, 80])
"""A TLS alert (fatal, internal error) for a connection that is one too many: a plain answer would be no TLS."""
_TLS_ONLY = "this server takes TLS only: give the client --security FOLDER, with ca.pem and token from the server"
_WRONG_TOKEN = "this server did not take the token: copy the file token from its folder to the client's"  # noqa: S105
_NO_TLS = (
    "there is no TLS: start that server with --security FOLDER; on a network that you trust, --insecure on both sides"
)


@dataclass(frozen=True)
class ServerSecurity:
    """What a server shows, and what it asks for on every connection before anything else."""

    context: ssl.SSLContext = field(repr=False)
    token: Token
    certificate_digest: bytes

    def admit(self, connection: Connection) -> None:
        """Agree on TLS with a client, and let it prove that it knows the token.

        Raises:
            SecurityError: it does not speak TLS, or did not show who it is; it has been told.
            ConnectionLost: it closed, was silent, or took too long.
            ProtocolError: it sent something else than a proof.
        """
        try:
            connection.use_tls(self.context)
        except NotTls as error:
            connection.refuse(Error("denied", _TLS_ONLY))
            what = "plain Tandem" if _is_tandem(error) else f"neither TLS nor Tandem ({error.strerror})"
            raise SecurityError(f"it spoke {what}; this server takes TLS only") from None
        except ssl.SSLError as error:
            raise SecurityError(server_reason(error)) from None
        challenge = fresh_nonce()
        connection.send(Challenge(challenge))
        proof = expect(connection.receive().frame, Proof)
        exchange = Exchange(challenge, proof.nonce, self.certificate_digest)
        try:
            self.token.check("client", exchange, proof.proof)
        except SecurityError:
            connection.refuse(Error("denied", _WRONG_TOKEN))
            raise
        connection.send(Welcome(self.token.prove("server", exchange)))


@dataclass(frozen=True)
class ClientSecurity:
    """What a client asks of a server, and how it shows that it belongs to it."""

    context: ssl.SSLContext = field(repr=False)
    token: Token
    ca_file: Path

    def introduce(self, connection: Connection, host: str) -> None:
        """Agree on TLS with the server that was called as ``host``, and prove that this side knows the token.

        Raises:
            SecurityError: it is not the server that this side knows, or speaks no TLS.
            PeerError: it does not take this side's token.
            ConnectionLost: it closed, was silent, or took too long.
        """
        connection.set_deadline(HANDSHAKE_TIMEOUT_S)
        digest = self._use_tls(connection, host)
        try:
            challenge = expect(connection.receive().frame, Challenge)
        except ConnectionLost as error:
            # Only now does a server of TLS 1.3 say what it thinks of a client's certificate.
            if isinstance(error.__cause__, ssl.SSLError):
                raise self._unlike(connection, error.__cause__, host) from None
            raise
        exchange = Exchange(challenge.nonce, fresh_nonce(), digest)
        connection.send(Proof(exchange.nonce, self.token.prove("client", exchange)))
        welcome = expect(connection.receive().frame, Welcome)
        try:
            self.token.check("server", exchange, welcome.proof)
        except SecurityError as error:
            raise SecurityError(f"{connection.peer} does not know the token: {error}") from None
        connection.set_deadline(None)

    def _use_tls(self, connection: Connection, host: str) -> bytes:
        """Digest of the server's certificate."""
        try:
            certificate = connection.use_tls(self.context, hostname=host)
        except NotTls as error:
            what = "plain Tandem" if _is_tandem(error) else f"neither TLS nor Tandem ({error.strerror})"
            raise SecurityError(f"{connection.peer} speaks {what}, this side TLS only; {_NO_TLS}") from None
        except ssl.SSLError as error:
            raise self._unlike(connection, error, host) from None
        except ValueError as error:
            raise UsageError(f"--ip {host!r} is no name that a certificate can be for: {error}") from None
        if certificate is None:
            raise ProtocolError(f"{connection.peer} showed no certificate")
        return certificate_digest(certificate)

    def _unlike(self, connection: Connection, error: ssl.SSLError, host: str) -> SecurityError:
        return SecurityError(f"{connection.peer}: {client_reason(error, host, str(self.ca_file))}")


def _is_tandem(error: NotTls) -> bool:
    return error.first.startswith(MAGIC[: len(error.first)])
