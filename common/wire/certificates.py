"""Makes a private CA, certificates signed by it, and a token, in a folder that both sides take with ``--security``."""

import datetime
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import UsageError

CA_DAYS = 3650
_SLACK = datetime.timedelta(hours=1)  # an edge's clock may be behind
_SELF = ("localhost", "127.0.0.1", "::1")

_FOLDER_NAME = re.compile(r"\w[\w.-]*")

_Key = ec.EllipticCurvePrivateKey


def create(folder: Path, names: Sequence[str], days: int, clients: Sequence[str]) -> tuple[str, ...]:
    """Fill ``folder``; where its CA is there already, that and the token stay, so edges need nothing new.

    Args:
        folder: gets ca.pem, ca.key, server.pem, server.key and token, all readable by this user only, and what an
            edge needs of them in ``edge``.
        names: what edges call the server, besides localhost; none for those of the certificate that is renewed, or
            else those that this machine knows of itself.
        days: how long certificates of servers and clients are valid.
        clients: edges that get a certificate of their own, in ``clients/NAME``; servers ask for one from then on.

    Returns:
        The names that the server's certificate is for.

    Raises:
        UsageError: a name that is none, or a folder that cannot be used.
    """
    chosen = tuple(dict.fromkeys([*(names or _renewed_names(folder / "server.pem") or _own_names()), *_SELF]))
    for client in clients:
        if not _FOLDER_NAME.fullmatch(client):
            raise UsageError(f"--clients {client!r} is no name for a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ca, ca_key = _ca(folder)
        if not (folder / "token").exists():
            _write(folder / "token", secrets.token_urlsafe(32).encode() + b"\n")
        _issue(folder, "server", chosen[0], [_general(name) for name in chosen], (ca, ca_key), days)
        _for_edge(folder, folder / "edge")
        for client in clients:
            own = folder / "clients" / client
            _for_edge(folder, own)
            _issue(own, "client", client, [], (ca, ca_key), days)
        if clients:
            _write(folder / "clients.pem", (folder / "ca.pem").read_bytes())
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written: {error.strerror}; name another folder") from None
    return chosen


def days_left(certificate: Path) -> float:
    """How long a certificate is still valid; less than 0 where it has expired.

    Raises:
        UsageError: the file holds no certificate.
    """
    try:
        end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        raise UsageError(f"{certificate} holds no certificate") from None
    return (end - _now()) / datetime.timedelta(days=1)


def _for_edge(folder: Path, edge: Path) -> None:
    """What an edge needs of a folder, by itself: nothing else of it should ever be copied."""
    edge.parent.mkdir(exist_ok=True, mode=0o700)  # `parents=True` would give it another mode
    edge.mkdir(exist_ok=True, mode=0o700)
    for name in ("ca.pem", "token"):
        _write(edge / name, (folder / name).read_bytes())


def _ca(folder: Path) -> tuple[x509.Certificate, _Key]:
    """The folder's CA, made where it has none."""
    kept = [name for name in ("ca.pem", "ca.key") if (folder / name).exists()]
    if not kept:
        if others := sorted(each.name for each in folder.iterdir() if each.suffix in (".pem", ".key")):
            raise UsageError(f"{folder} has {', '.join(others)} of another making; name another folder with --out")
        return _new_ca(folder)
    if len(kept) < 2:
        raise UsageError(f"{folder} has {kept[0]} without the other of ca.pem, ca.key; name another folder with --out")
    try:
        ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except (TypeError, ValueError):
        raise UsageError(f"{folder}: ca.pem or ca.key is damaged; name another folder with --out") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise UsageError(f"{folder}: ca.key does not belong to ca.pem; name another folder with --out")
    if ca.not_valid_after_utc <= _now():
        raise UsageError(f"{folder}: the CA has expired; make another with --out, and give it to the edges")
    return ca, key


def _new_ca(folder: Path) -> tuple[x509.Certificate, _Key]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Tandem CA {secrets.token_hex(4)}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, key, _now() + datetime.timedelta(days=CA_DAYS))
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    ca = builder.sign(key, hashes.SHA256())
    _write_pair(folder, "ca", ca, key)
    return ca, key


def _issue(
    folder: Path,
    stem: str,
    name: str,
    names: Sequence[x509.GeneralName],
    ca: tuple[x509.Certificate, _Key],
    days: int,
) -> None:
    """Make ``stem``.pem and ``stem``.key, of a server or of a client."""
    issuer, issuer_key = ca
    key = ec.generate_private_key(ec.SECP256R1())
    # Signed for one use only: a client's certificate cannot pass for a server's.
    use = ExtendedKeyUsageOID.SERVER_AUTH if stem == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    end = min(_now() + datetime.timedelta(days=days), issuer.not_valid_after_utc)
    builder = (
        _builder(_name(name), key, end)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    _write_pair(folder, stem, builder.sign(issuer_key, hashes.SHA256()), key)


def _builder(name: x509.Name, key: _Key, end: datetime.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _SLACK)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # X.520 allows no more


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        ascii_name = name.encode("idna").decode()
    except UnicodeError:
        ascii_name = ""
    if not ascii_name or not all(each.isalnum() or each in "-._*" for each in ascii_name):
        raise UsageError(f"--names {name!r} is neither a host name nor an address")
    return x509.DNSName(ascii_name)


def _renewed_names(certificate: Path) -> list[str]:
    """The names of a certificate that is there already."""
    try:
        old = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [str(each.value) for each in names]


def _own_names() -> list[str]:
    """What this machine knows of its own names and addresses; not those that a router gives it."""
    addresses = [each.address for every in psutil.net_if_addrs().values() for each in every]
    usable = []
    for address in addresses:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            continue  # a hardware address, or one with a zone
        if not (parsed.is_loopback or parsed.is_link_local):
            usable.append(address)
    host = socket.gethostname()
    return [*([host] if host.replace("-", "").replace(".", "").isalnum() else []), *usable]


def _write_pair(folder: Path, stem: str, certificate: x509.Certificate, key: _Key) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(folder / f"{stem}.key", private)
    _write(folder / f"{stem}.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _write(path: Path, data: bytes) -> None:
    """Write a file that nobody else can read, not even while it is being written."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
