"""Kits as they are used: opened only if whole, signed by their consortium, in time, and with their own key.

``kit.json`` (a site's) and ``server.json`` (the server's) are records signed by the consortium's authority; they hold
the hashes of the kit's other files that nobody is to change.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_json
from adamss_fl.provisioning.keys import (
    fingerprint,
    is_signed,
    key_fingerprint,
    load_certificate,
    load_private,
    load_public,
    public_ssh,
)

KIT, SERVER = "kit.json", "server.json"
_REMEMBERED = "kit.json"
_AGAIN = "ask the coordinator for a new kit"


@dataclass(frozen=True)
class SiteKit:
    """A site's kit.

    consortium_id : SHA-256 of the authority's certificate. server_host, server_port : where the server is.
    ca_file : whom the server's certificate must come from. key_file, public_key : the site's own. expires : ISO time.
    """

    folder: Path
    consortium: str
    consortium_id: str
    site: str
    server_host: str
    server_port: int
    ca_file: Path
    key_file: Path
    public_key: str
    expires: str
    serial: int


@dataclass(frozen=True)
class ServerKit:
    """The server's kit.

    sites : OpenSSH public key of every site that may take part, by name. revoked : names of those that may no longer.
    """

    folder: Path
    consortium: str
    consortium_id: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    port: int
    cert_file: Path
    key_file: Path
    ca_file: Path
    sites: Mapping[str, str]
    revoked: tuple[str, ...]
    expires: str


def open_site_kit(folder: Path, now: datetime | None = None) -> SiteKit:
    """A site's kit. Raises InputError where it is not whole, not signed, edited, out of time, or another key's."""
    folder = Path(folder)
    record = _open(folder, KIT, now)
    own = load_private(folder / "site.key")
    if key_fingerprint(public_ssh(own.public_key())) != key_fingerprint(record["public_key"]):
        raise InputError(
            f"{folder / 'site.key'}: is not the key that this kit was made for (site {record['site']}); "
            "a kit works only at its own site, with the key that was made there"
        )
    server = record["server"]
    return SiteKit(
        folder=folder,
        consortium=record["consortium"],
        consortium_id=record["consortium_id"],
        site=record["site"],
        server_host=server["host"],
        server_port=server["port"],
        ca_file=(folder / "ca.crt").resolve(),
        key_file=(folder / "site.key").resolve(),
        public_key=record["public_key"],
        expires=record["expires"],
        serial=record["serial"],
    )


def open_server_kit(folder: Path, now: datetime | None = None) -> ServerKit:
    """The server's kit. Raises InputError as :func:`open_site_kit` does."""
    folder = Path(folder)
    record = _open(folder, SERVER, now)
    certificate, own = load_certificate(folder / "server.crt"), load_private(folder / "server.key")
    if certificate.public_key() != own.public_key():
        raise InputError(f"{folder / 'server.key'}: is not the key of server.crt; provision the server again")
    server = record["server"]
    return ServerKit(
        folder=folder,
        consortium=record["consortium"],
        consortium_id=record["consortium_id"],
        names=tuple(server["names"]),
        addresses=tuple(server["addresses"]),
        port=server["port"],
        cert_file=(folder / "server.crt").resolve(),
        key_file=(folder / "server.key").resolve(),
        ca_file=(folder / "ca.crt").resolve(),
        sites=record["sites"],
        revoked=tuple(record["revoked"]),
        expires=record["expires"],
    )


def remember(kit: SiteKit, state: Path) -> None:
    """Bind a state folder to the kit that first used it.

    Raises InputError where the folder belongs to another site, another consortium, or another key of the site.
    """
    path = state / _REMEMBERED
    own = {
        "consortium_id": kit.consortium_id,
        "consortium": kit.consortium,
        "site": kit.site,
        "key": key_fingerprint(kit.public_key),
    }
    if not path.exists():
        write_json(path, own, private=True)
        return
    known = _read(path)
    for key, what in (("consortium_id", "consortium"), ("site", "site"), ("key", "key")):
        if known.get(key) != own[key]:
            shown = {"consortium_id": "consortium", "site": "site", "key": "key"}[key]
            raise InputError(
                f"{kit.folder}: is a kit of another {what} ({own[shown]}) than {state} was first used with "
                f"({known.get(shown)}); use the kit of this site, or give it another state folder"
            )


def _open(folder: Path, name: str, now: datetime | None) -> dict[str, Any]:
    """A kit's record, checked: signature, consortium, time, and the hashes of its files."""
    path = folder / name
    if not path.exists():
        raise InputError(f"{folder}: is no kit ({name} is missing); give the folder that `adamss-fl provision` made")
    record = _read(path)
    authority = load_certificate(folder / "ca.crt")
    if record.get("consortium_id") != fingerprint(authority):
        raise InputError(f"{path}: belongs to another consortium than {folder / 'ca.crt'}; {_AGAIN}")
    issuer = authority.public_key()
    signer = load_public(public_ssh(issuer), str(folder / "ca.crt"))  # type: ignore[arg-type]
    if not is_signed(record, signer):
        raise InputError(f"{path}: was edited after it was signed; {_AGAIN}")
    moment = now or datetime.now(UTC)
    issued, expires = (datetime.fromisoformat(record[key]) for key in ("issued", "expires"))
    if moment < issued:
        raise InputError(
            f"{path}: is good only from {record['issued']} on, and this machine's clock says "
            f"{moment:%Y-%m-%d %H:%M}; set the clock"
        )
    if moment >= expires:
        raise InputError(f"{path}: expired on {record['expires']}; {_AGAIN} (`adamss-fl provision --renew`)")
    for file, digest in record["files"].items():
        found = folder / file
        if not found.is_file():
            raise InputError(f"{found}: is missing; {_AGAIN}")
        if hashlib.sha256(found.read_bytes()).hexdigest() != digest:
            raise InputError(f"{found}: was edited after it was signed; {_AGAIN}")
    return record


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read; {_AGAIN}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no record of a kit; {_AGAIN}")
    return found
