"""Both sides show that they know the token without sending it; pure functions of bytes.

A proof is HMAC-SHA-256 under the token over who gives it, a number of each side that is used once, and the digest of
the server's certificate (``tls-server-end-point``, RFC 5929). So no proof can be used again, given back to its sender,
or carried on by somebody between the two, whose certificate is another one.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from common.errors import ProtocolError, SecurityError

NONCE_BYTES = 32
_LABEL = b"tandem token 1 "


@dataclass(frozen=True)
class Token:
    """What both sides know and nobody else; it does not show itself in errors and logs."""

    _secret: bytes = field(repr=False)

    def prove(self, role: str, exchange: "Exchange") -> bytes:
        """The proof of ``client`` or ``server``."""
        text = _LABEL + role.encode() + b"\0" + exchange.challenge + exchange.nonce + exchange.certificate_digest
        return hmac.digest(self._secret, text, "sha256")

    def check(self, role: str, exchange: "Exchange", proof: bytes) -> None:
        """Raises SecurityError where the peer does not know this token; takes as long for any wrong proof."""
        if not hmac.compare_digest(self.prove(role, exchange), proof):
            raise SecurityError("its token is another one than here")


@dataclass(frozen=True)
class Exchange:
    """What the proofs of one connection are about."""

    challenge: bytes
    """The server's number."""
    nonce: bytes
    """The client's number."""
    certificate_digest: bytes

    def __post_init__(self) -> None:
        # Fixed lengths: else bytes of one could be taken for bytes of the next.
        for name in ("challenge", "nonce"):
            if len(getattr(self, name)) != NONCE_BYTES:
                raise ProtocolError(f"a {name} of {len(getattr(self, name))} bytes came; it has {NONCE_BYTES}")


def fresh_nonce() -> bytes:
    """A number that is used once."""
    return secrets.token_bytes(NONCE_BYTES)


def certificate_digest(der: bytes) -> bytes:
    """Digest of a certificate."""
    return hashlib.sha256(der).digest()
