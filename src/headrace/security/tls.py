"""The server's certificate: given, or signed by itself and kept in the data folder."""

import contextlib
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from headrace.domain.errors import Invalid
from headrace.security.vault import write_private

YEARS: Final = 10
CERTIFICATE, KEY = "tls.crt", "tls.key"


def checked(certificate: Path, key: Path) -> tuple[Path, Path]:
    """Return the pair if a server can use it. Raises Invalid, naming the option."""
    for path, option in ((certificate, "--tls-cert"), (key, "--tls-key")):
        if not path.is_file():
            raise Invalid(f"{option}: there is no file {path}.", field=option)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise Invalid(
            f"The certificate and the key cannot be used: {error}.",
            hint="Give both as PEM; the key without a password, of this certificate.",
            field="--tls-cert",
        ) from error
    return certificate, key


def self_signed(folder: Path, host: str) -> tuple[Path, Path]:
    """Return the folder's own certificate and key, made on the first call."""
    certificate, key = folder / CERTIFICATE, folder / KEY
    if not (certificate.exists() and key.exists()):
        for path in (certificate, key):
            path.unlink(missing_ok=True)
        _make(certificate, key, host)
    return checked(certificate, key)


def _make(certificate: Path, key_path: Path, host: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "headrace")])
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    addresses = ["127.0.0.1", "::1"]
    try:
        ipaddress.ip_address(host)
        addresses += [host]
    except ValueError:
        names += [x509.DNSName(host)]
    for address in dict.fromkeys(addresses):
        with contextlib.suppress(ValueError):
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(
        key_path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )  # fmt: skip
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
