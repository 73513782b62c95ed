"""Records signed by a key: JSON files that have one form only, so that a change of any byte shows.

The signature is ECDSA (P-384, SHA-384) over the record's canonical JSON: sorted keys, no spaces, without ``signature``.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey

SIGNATURE = "signature"


def canonical(content: Mapping[str, Any], without: str = SIGNATURE) -> bytes:
    """The bytes of a record that are signed: JSON with sorted keys and no spaces, without the key ``without``."""
    unsigned = {key: value for key, value in content.items() if key != without}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def signed(content: Mapping[str, Any], key: "EllipticCurvePrivateKey", name: str = SIGNATURE) -> dict[str, Any]:
    """``content`` with its signature by ``key``, in base64, under ``name``."""
    return {**content, name: base64.b64encode(key.sign(canonical(content, name), _scheme(True))).decode()}


def is_signed(content: Mapping[str, Any], key: "EllipticCurvePublicKey", name: str = SIGNATURE) -> bool:
    """Whether ``content`` bears, under ``name``, a signature by the owner of ``key``."""
    from cryptography.exceptions import InvalidSignature

    text = content.get(name)
    if not isinstance(text, str):
        return False
    try:
        signature = base64.b64decode(text, validate=True)
        key.verify(signature, canonical(content, name), _scheme(False))
    except (InvalidSignature, ValueError):
        return False
    return base64.b64encode(signature).decode() == text  # base64 may be written in more than one way


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a signed record atomically, readable by its owner only."""
    write_atomically(path, _form(record), private=True)


def read_record(path: Path, fields: Mapping[str, type], mend: str) -> dict[str, Any]:
    """A record as :func:`write_record` wrote it, not yet verified.

    fields : every key and the type of its value. mend : the end of an error's line, what to do about a bad file.
    Raises InputError where the file is missing, has another key or type, or is not byte for byte in the form written.
    """
    try:
        data = path.read_bytes()
        record = json.loads(data)
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing; {mend}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run as its owner") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged or was edited (not valid JSON); {mend}") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: is damaged or was edited (not a record); {mend}")
    odd = sorted(set(record) ^ set(fields))
    if odd:
        state = "is missing" if odd[0] in fields else "does not belong there"
        raise InputError(f"{path}: is damaged or was edited (key {odd[0]!r} {state}); {mend}")
    wrong = [key for key, kind in fields.items() if type(record[key]) is not kind]
    if wrong:
        raise InputError(f"{path}: is damaged or was edited (key {wrong[0]!r} has another kind of value); {mend}")
    try:
        whole = data == _form(record)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise InputError(f"{path}: was edited after it was written; {mend}")
    return record


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def moment(text: str, where: str, mend: str) -> datetime:
    """A time of a record, in UTC. Raises InputError where it is none or names no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} is no time; {mend}") from error
    if found.tzinfo is None:
        raise InputError(f"{where}: {text!r} names no time zone; {mend}")
    return found.astimezone(UTC)


def _form(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _scheme(signing: bool) -> "ECDSA":
    """ECDSA with SHA-384; signing is deterministic (RFC 6979) where the OpenSSL beneath can do that."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    if signing:
        try:
            return ec.ECDSA(hashes.SHA384(), deterministic_signing=True)
        except UnsupportedAlgorithm:
            pass
    return ec.ECDSA(hashes.SHA384())
