"""Certificates for tests: self-signed, for 127.0.0.1 and localhost, each told apart by its serial number."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["make", "make_signed"]

DAY = datetime.timedelta(days=1)


def make(certificate: Path, key: Path, password: bytes | None = None) -> int:
    """Write a new pair; its serial number."""
    private = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    made = _builder("localhost", "localhost", private, now - DAY, now + DAY, authority=True).sign(
        private, hashes.SHA256()
    )
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    for path, content in (
        (certificate, made.public_bytes(serialization.Encoding.PEM)),
        (
            key,
            private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption),
        ),
    ):
        temporary = path.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.replace(path)
    return made.serial_number


def make_signed(folder: Path, begins: datetime.datetime, ends: datetime.datetime) -> tuple[Path, Path]:
    """An authority of today, and a certificate with its key that it signed for these times: the two files.

    rustls, unlike OpenSSL, takes no certificate that is its own authority.
    """
    authority, private = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.datetime.now(datetime.timezone.utc)
    root = _builder("authority", "authority", authority, now - DAY, now + DAY, authority=True)
    made = _builder("localhost", "authority", private, begins, ends, authority=False)
    files = folder / "authority.pem", folder / "server.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(root.sign(authority, hashes.SHA256()).public_bytes(pem))
    key = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[1].write_bytes(made.sign(authority, hashes.SHA256()).public_bytes(pem) + key)
    return files


def _builder(
    subject: str,
    issuer: str,
    private: ec.EllipticCurvePrivateKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
    *,
    authority: bool,
) -> x509.CertificateBuilder:
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    subject_name, issuer_name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(issuer_name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
    )
