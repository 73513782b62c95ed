"""Keys of machines: EC P-384, by the ``cryptography`` library, in the formats that Flower and TLS read."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

_CURVE = "secp384r1"


def new_key() -> "EllipticCurvePrivateKey":
    """A new private key."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: "EllipticCurvePrivateKey") -> bytes:
    """A private key as PEM (PKCS 8, not encrypted), for the authority and for TLS."""
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def private_ssh(key: "EllipticCurvePrivateKey") -> bytes:
    """A private key in OpenSSH's format, the one that ``flower-supernode --auth-supernode-private-key`` reads."""
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())


def public_ssh(key: "EllipticCurvePublicKey") -> str:
    """A public key as OpenSSH's one line, the format that ``flwr supernode register`` reads."""
    from cryptography.hazmat.primitives import serialization as form

    return key.public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()


def load_private(path: Path, mend: str) -> "EllipticCurvePrivateKey":
    """A private key from a file in PEM or OpenSSH's format.

    mend : the end of an error's line, what to do where the key cannot be had.
    Raises InputError where the file is missing, is readable by others, or is no EC P-384 key without a passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        data = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: the private key is missing; {mend}") from error
    except OSError as error:
        raise InputError(f"{path}: the private key cannot be read ({error.strerror}); run as its owner") from error
    if mode & 0o077:
        raise InputError(f"{path}: others on this machine may read the private key; run: chmod 600 '{path}'")
    load = form.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else form.load_pem_private_key
    try:
        key = load(data, password=None)
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: is no private key without a passphrase; {mend}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != _CURVE:
        raise InputError(f"{path}: is no EC P-384 key; {mend}")
    return key


def load_public(text: str, where: str) -> "EllipticCurvePublicKey":
    """A public key from OpenSSH's line. Raises InputError, beginning with ``where``, where it is no EC P-384 key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = form.load_ssh_public_key(text.encode())
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise InputError(f"{where}: the public key is not one in OpenSSH's format; make it again") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE:
        raise InputError(f"{where}: the public key is no EC P-384 key; make it again")
    return key


def key_fingerprint(public_key: str) -> str:
    """SHA-256, in hexadecimal, of a public key's OpenSSH line without its comment."""
    return hashlib.sha256(" ".join(public_key.split()[:2]).encode()).hexdigest()
