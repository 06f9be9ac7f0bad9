"""Why TLS failed, in words for the user of the side that noticed: what was wrong, and the way out."""

import ssl

CREATE = "python -m common.wire.security create"

_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_* of OpenSSL
_MISMATCHES = (62, 64)  # of a name, of an address

_OF_CLIENTS = {
    "UNKNOWN_CA": "it does not know the CA of this server's certificate: copy ca.pem and token to it again",
    "CERTIFICATE_EXPIRED": f"this server's certificate has expired: renew it with {CREATE}, and start the server again",
    "BAD_CERTIFICATE": "it does not take this server's certificate; it may call the server by a name that is not in it "
    f"({CREATE} --names ...), or its clock is wrong",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has no client certificate, which this server asks for; make it one with "
    f"{CREATE} --clients NAME",
    "CERTIFICATE_VERIFY_FAILED": "its client certificate is not one that this server's clients.pem stands for, or has "
    "expired",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
}
_OF_SERVERS = {
    "CERTIFICATE_REQUIRED": "it asks for a client certificate: put client.pem and client.key beside ca.pem and token",
    "UNKNOWN_CA": "it does not know the CA of this side's client.pem",
    "CERTIFICATE_EXPIRED": f"this side's client.pem has expired: make another on the server with {CREATE} --clients",
    "BAD_CERTIFICATE": "it does not take this side's client.pem",
    "PROTOCOL_VERSION": "it does not speak TLS 1.3",
    "INTERNAL_ERROR": "it turned the connection away; it may have too many, try again later",
}


def client_reason(error: ssl.SSLError, host: str, ca_file: str) -> str:
    """Why this client and the server it called ``host`` have no TLS connection."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return _told(_OF_SERVERS, error)
    code = error.verify_code
    if code == _EXPIRED:
        return f"its certificate has expired: renew it there with {CREATE}, and start the server again"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet: is the clock of this machine right?"
    if code in _MISMATCHES:
        return (
            f"its certificate is for other names than {host}: call the server by a name that it was made for, "
            f"or make it for this one there with {CREATE} --names {host}"
        )
    return (
        f"its certificate was not signed by the CA in {ca_file} ({error.verify_message}): it is another server, or its "
        "certificates were made anew; copy ca.pem and token from the server again"
    )


def server_reason(error: ssl.SSLError) -> str:
    """Why this server and a client have no TLS connection."""
    return _told(_OF_CLIENTS, error)


def alert_reason(error: ssl.SSLError) -> str:
    """Why a TLS connection broke, where neither side's part in it is known."""
    return f"TLS failed ({_bare(error)})"


def _told(known: dict[str, str], error: ssl.SSLError) -> str:
    bare = _bare(error)
    return next((words for name, words in known.items() if name in bare), f"the TLS handshake failed ({bare})")


def _bare(error: ssl.SSLError) -> str:
    return error.reason or str(error.strerror or error)
