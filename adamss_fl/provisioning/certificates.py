"""X.509: a consortium's authority, and the server's certificate that it signs."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from adamss_fl.errors import InputError
from adamss_fl.provisioning.keys import new_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate, KeyUsage

AUTHORITY_DAYS = 7300
LOOPBACK_NAME, LOOPBACK_ADDRESS = "localhost", "127.0.0.1"
"""Every server's certificate is good for its own machine too, for commands that are given there."""

_ORGANISATION = "AdaMSS-FL consortium"
_EARLIER = timedelta(hours=1)
"""Certificates begin this much before they are made, for clocks that are a little behind."""


@dataclass(frozen=True)
class Authority:
    """What signs everything of a consortium: the key, and the certificate that the kits carry."""

    key: "EllipticCurvePrivateKey"
    certificate: "Certificate"

    @property
    def id(self) -> str:
        """The consortium's identity: SHA-256 of the certificate, in hexadecimal."""
        return certificate_id(self.certificate)


def new_authority(name: str, now: datetime) -> Authority:
    """An authority for the consortium ``name``, whose certificate can sign no further authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    key = new_key()
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION), x509.NameAttribute(NameOID.COMMON_NAME, name)]
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
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Authority(key, certificate)


def server_certificate(
    authority: Authority,
    key: "EllipticCurvePublicKey",
    names: Sequence[str],
    addresses: Sequence[str],
    now: datetime,
    expires: datetime,
) -> "Certificate":
    """The server's certificate, for its names and addresses and for the server's own machine."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    others: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys((*names, LOOPBACK_NAME))]
    others += [x509.IPAddress(each) for each in dict.fromkeys(map(ip_address, (*addresses, LOOPBACK_ADDRESS)))]
    common = x509.NameAttribute(NameOID.COMMON_NAME, (*names, *addresses)[0][:64])  # for people; TLS reads the others
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([common]))
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(others), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA384())
    )


def certificate_pem(certificate: "Certificate") -> bytes:
    """A certificate as PEM."""
    from cryptography.hazmat.primitives import serialization as form

    return certificate.public_bytes(form.Encoding.PEM)


def load_certificate(path: Path, mend: str) -> "Certificate":
    """The certificate in a PEM file. Raises InputError, ending with ``mend``, where it is missing or is none."""
    from cryptography import x509

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd certificates, which are refused by their signature or hash
            return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: the certificate is missing; {mend}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run as its owner") from error
    except ValueError as error:
        raise InputError(f"{path}: is no certificate; {mend}") from error


def authority_key(certificate: "Certificate", where: str, mend: str) -> "EllipticCurvePublicKey":
    """The key of an authority's certificate. Raises InputError where it is no authority's with an EC P-384 key."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = certificate.public_key()
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise InputError(f"{where}: is no certificate of an authority; {mend}") from error
    if not constraints.ca or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise InputError(f"{where}: is no certificate of an authority with an EC P-384 key; {mend}")
    return key


def certificate_id(certificate: "Certificate") -> str:
    """SHA-256 of a certificate, in hexadecimal."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()


def common_name(certificate: "Certificate") -> str:
    """The common name of a certificate's subject; empty where it has none. An authority's is its consortium's name."""
    from cryptography.x509.oid import NameOID

    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _usage(signs_certificates: bool) -> "KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
