"""Certificates for the tests: an authority, and what it signs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM: Final = serialization.Encoding.PEM


class Authority:
    """`file` is what clients are to trust."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.file = folder / f"{name}.pem"
        authority = x509.BasicConstraints(ca=True, path_length=None)
        made = _valid(self._name, self._key).issuer_name(self._name).add_extension(authority, critical=True)
        self._write(self.file, made.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def sign(self, name: str, *hosts: str, ended: bool = False) -> tuple[Path, Path]:
        """The files of a certificate for those hosts, and of its key; perhaps of one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        places = x509.SubjectAlternativeName([_host(host) for host in hosts])
        made = _valid(_named(name), key, ended=ended).issuer_name(self._name).add_extension(places, critical=False)
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        self._write(files[0], made.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        plain = serialization.NoEncryption()
        self._write(files[1], key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain))
        return files

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        path.chmod(0o644)  # the servers run as nobody if we are root


def _valid(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ended: bool = False) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3))
        .not_valid_after(now + timedelta(days=-1 if ended else 1))
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(host)) if host[-1].isdigit() else x509.DNSName(host)
