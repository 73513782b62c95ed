"""Keys, certificates and signatures, all by the ``cryptography`` library: EC P-384 throughout."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate

AUTHORITY_DAYS = 3650
_EARLIER = timedelta(hours=1)
"""Certificates begin this much earlier, for clocks that are a little behind."""


def new_key() -> "EllipticCurvePrivateKey":
    """A new private key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: "EllipticCurvePrivateKey") -> bytes:
    """A private key as PEM (PKCS 8, not encrypted), for the server and the authority."""
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def private_ssh(key: "EllipticCurvePrivateKey") -> bytes:
    """A private key in OpenSSH's format, which Flower's SuperNode reads."""
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())


def public_ssh(key: "EllipticCurvePublicKey") -> str:
    """A public key as OpenSSH's line."""
    from cryptography.hazmat.primitives import serialization as form

    return key.public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()


def load_private(path: Path) -> "EllipticCurvePrivateKey":
    """A private key from PEM or OpenSSH's format. Raises InputError where it is none, or others may read it."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: the private key is missing; put it there, or ask for a new kit") from error
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path}: others may read the private key; `chmod 600 {path}`")
    load = form.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else form.load_pem_private_key
    try:
        key = load(data, password=None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: is no private key; restore it, or ask for a new kit") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise InputError(f"{path}: is no EC P-384 key; ask for a new kit")
    return key


def load_public(text: str, where: str) -> "EllipticCurvePublicKey":
    """A public key from OpenSSH's line. Raises InputError where it is no EC P-384 key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = form.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{where}: is no public key in OpenSSH's format") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise InputError(f"{where}: is no EC P-384 key")
    return key


def new_authority(name: str, now: datetime) -> "tuple[EllipticCurvePrivateKey, Certificate]":
    """A consortium's certificate authority: its key, and a certificate that may sign no other authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"AdaMSS-FL consortium {name}"[:64])])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return key, certificate


def server_certificate(
    authority: "tuple[EllipticCurvePrivateKey, Certificate]",
    key: "EllipticCurvePrivateKey",
    names: Sequence[str],
    addresses: Sequence[str],
    now: datetime,
    days: int,
) -> "Certificate":
    """The server's certificate, good for its names, its addresses, and for the server's own machine (localhost)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    signer, issuer = authority
    all_names = dict.fromkeys((*names, "localhost"))
    all_addresses = dict.fromkeys(map(ip_address, (*addresses, "127.0.0.1")))
    others: list[x509.GeneralName] = [x509.DNSName(name) for name in all_names]
    others += [x509.IPAddress(address) for address in all_addresses]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (*names, *addresses)[0][:64])]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )


def certificate_pem(certificate: "Certificate") -> bytes:
    """A certificate as PEM."""
    from cryptography.hazmat.primitives import serialization as form

    return certificate.public_bytes(form.Encoding.PEM)


def load_certificate(path: Path) -> "Certificate":
    """A certificate from PEM. Raises InputError where it is none."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{path}: is no certificate; restore it, or ask for a new kit") from error


def fingerprint(certificate: "Certificate") -> str:
    """SHA-256 of a certificate: the identity of a consortium."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()


def key_fingerprint(public_key: str) -> str:
    """SHA-256 of a public key's OpenSSH line, without its comment."""
    return hashlib.sha256(" ".join(public_key.split()[:2]).encode()).hexdigest()


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one text of a record that is signed: JSON with sorted keys, no spaces, without ``signature``."""
    unsigned = {key: value for key, value in content.items() if key != "signature"}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def signed(content: Mapping[str, Any], key: "EllipticCurvePrivateKey") -> dict[str, Any]:
    """``content`` with its ``signature`` (ECDSA, SHA-384, base64)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    signature = key.sign(canonical(content), ec.ECDSA(hashes.SHA384()))
    return {**content, "signature": base64.b64encode(signature).decode()}


def is_signed(content: Mapping[str, Any], key: "EllipticCurvePublicKey") -> bool:
    """Whether ``content`` bears a signature of ``key``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        signature = base64.b64decode(str(content.get("signature", "")), validate=True)
        key.verify(signature, canonical(content), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True
