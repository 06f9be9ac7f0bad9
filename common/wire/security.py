"""Whether a connection is protected, and with what: TLS 1.3 and a token wherever another machine can reach the port.

``python -m common.wire.security create`` makes all that both sides need. What is exchanged stands in
``docs/protocol.md``, what it is good for in ``docs/security.md``.
"""

import ipaddress
import logging
import os
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.command import run_command
from common.config import parse
from common.errors import UsageError
from common.wire.admission import ClientSecurity, ServerSecurity
from common.wire.certificates import create, days_left
from common.wire.proof import Token, certificate_digest
from common.wire.reasons import CREATE

log = logging.getLogger(__name__)

VARIABLE = "TANDEM_SECURITY"
"""Environment variable that names the folder where ``--security`` does not."""
_TOKEN_CHARACTERS = 32
_SOON_DAYS = 30
_TRUSTED = "on a network that you trust, --insecure on both sides"


def server_security(ip: str, folder: Path | None, *, insecure: bool) -> ServerSecurity | None:
    """What a server that listens on ``ip`` asks of its clients; None for connections without protection.

    Raises:
        UsageError: the address needs protection and there is none, or the folder cannot be used.
    """
    folder = _choose(
        ip,
        folder,
        insecure=insecure,
        way_out=f"--ip {ip} can be reached from other machines: make certificates and a token with `{CREATE}`, then "
        f"give --security FOLDER; {_TRUSTED}",
    )
    if folder is None:
        if not is_loopback(ip):
            log.warning("--insecure: connections are not encrypted, and whoever reaches the ports may open a session")
        return None
    files = [folder / name for name in ("server.pem", "server.key", "token")]
    _require(files, f"make them with `{CREATE} --out {folder}`")
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # sessions of TLS are not resumed
    _load(context, folder, "server")
    if (clients := folder / "clients.pem").exists():
        _trust(context, clients)
        context.verify_mode = ssl.CERT_REQUIRED
    left = days_left(files[0])
    if left <= 0:
        raise UsageError(f"{files[0]} has expired; renew it with `{CREATE} --out {folder}`")
    if left < _SOON_DAYS:
        log.warning("%s expires in %d days; renew it with `%s --out %s`", files[0], left, CREATE, folder)
    asked = "TLS 1.3, token" + (", client certificate" if context.verify_mode == ssl.CERT_REQUIRED else "")
    log.info("clients must show: %s (%s)", asked, folder)
    der = ssl.PEM_cert_to_DER_cert(_first_certificate(files[0]))
    return ServerSecurity(context, _token(folder), certificate_digest(der))


def client_security(ip: str, folder: Path | None, *, insecure: bool) -> ClientSecurity | None:
    """What a client asks of the server at ``ip``, and shows to it; None for connections without protection.

    Raises:
        UsageError: the address needs protection and there is none, or the folder cannot be used.
    """
    folder = _choose(
        ip,
        folder,
        insecure=insecure,
        way_out=f"--ip {ip} is another machine: copy the folder that `{CREATE}` made for edges to this one, then give "
        f"--security FOLDER; {_TRUSTED}",
    )
    if folder is None:
        if not is_loopback(ip):
            log.warning("--insecure: nothing that is sent to %s is encrypted, and it may be any server", ip)
        return None
    _require([folder / "ca.pem", folder / "token"], "copy them from the server's folder, where they are in edge/")
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    _trust(context, folder / "ca.pem")
    if (folder / "client.pem").exists():
        _load(context, folder, "client")
    return ClientSecurity(context, _token(folder), folder / "ca.pem")


def is_loopback(ip: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return ip.lower() == "localhost"


def _choose(ip: str, folder: Path | None, *, insecure: bool, way_out: str) -> Path | None:
    if insecure and folder is not None:
        raise UsageError("--security and --insecure say opposite things; leave one of them out")
    if insecure:
        return None
    named = os.environ.get(VARIABLE)
    if folder is None and named:
        folder = Path(named)
    if folder is None and not is_loopback(ip):
        raise UsageError(way_out)
    return folder


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _require(files: list[Path], way_out: str) -> None:
    if missing := [file.name for file in files if not file.exists()]:
        raise UsageError(f"--security {files[0].parent} has no {', '.join(missing)}; {way_out}")


def _load(context: ssl.SSLContext, folder: Path, stem: str) -> None:
    """Take ``stem``.pem and ``stem``.key as this side's own."""
    certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
    _warn_if_open(key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password(key))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UsageError(f"{certificate} and {key.name} are damaged or do not belong together ({reason})") from None


def _no_password(key: Path) -> Callable[[], str]:
    def ask() -> str:
        raise UsageError(f"{key} is encrypted; a server that starts by itself cannot be asked for a password")

    return ask


def _trust(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise UsageError(f"{ca} holds no certificate ({reason})") from None


def _token(folder: Path) -> Token:
    path = folder / "token"
    _warn_if_open(path)
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if len(text) < _TOKEN_CHARACTERS or len(text.split()) != 1:
        raise UsageError(f"{path} holds no token: that is one line of {_TOKEN_CHARACTERS} characters or more")
    return Token(text.encode())


def _warn_if_open(path: Path) -> None:
    if os.name == "posix" and path.exists() and path.stat().st_mode & 0o077:
        log.warning("%s can be read by other users of this machine; chmod 600 %s", path, path)


def _first_certificate(path: Path) -> str:
    """The server's own one, where its CA's stand behind it."""
    text, end = path.read_text(), "-----END CERTIFICATE-----"
    return text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)]


@dataclass(frozen=True)
class CreateOptions:
    """Make a private CA, a server's certificate and a token; in a folder that has a CA, only renew the certificate."""

    out: Path = Path("security")
    """Folder for all of it."""
    names: str = ""
    """What edges call the server, HOST,IP,...; default: the names and addresses that this machine knows of itself."""
    days: int = 730
    """How long certificates are valid; the CA is for ten years."""
    clients: str = ""
    """Edges that get a certificate of their own, NAME,...; the server asks for one from then on."""
    debug: bool = False
    """Show tracebacks."""


def main() -> None:
    """Make the files and print how to use them."""
    if sys.argv[1:2] != ["create"]:
        raise UsageError(f"say what to do: {CREATE} [--out FOLDER] [--names HOST,IP,...]")
    options = parse(CreateOptions, sys.argv[2:])
    if options.days < 1:
        raise UsageError(f"--days is {options.days}; it must be 1 or more")
    clients = _words(options.clients)
    names = create(options.out, _words(options.names), options.days, clients)
    print(f"{options.out} is ready; the server's certificate is for {', '.join(names)}\n\nto each edge, once:")
    for edge in [f"clients/{name}" for name in clients] or ["edge"]:
        print(f"  scp -r {options.out / edge} EDGE:security")
    print(
        f"on this machine:\n  python -m discriminative.server --ip 0.0.0.0 --security {options.out}\n"
        f"on each edge:\n  python -m discriminative.client --ip {names[0]} --security ~/security"
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for each in text.split(",") if (word := each.strip()))


if __name__ == "__main__":
    run_command(main)
