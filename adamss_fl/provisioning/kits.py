"""Kits where they are used: opened only if whole, signed by their consortium, in time, and beside their own key.

A state folder remembers the kit that first used it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_json
from adamss_fl.provisioning.certificates import load_certificate
from adamss_fl.provisioning.keys import key_fingerprint, load_private, public_ssh
from adamss_fl.provisioning.records import AGAIN, CA_FILE, SERVER_RECORD, SITE_RECORD, check_time, read_kit

_REMEMBERED = "kit.json"


@dataclass(frozen=True)
class SiteKit:
    """A site's kit.

    consortium_id : SHA-256 of the authority's certificate. server_host, server_port : where the server is.
    ca_file : absolute; who the server's certificate must come from. key_file : absolute; the site's private key.
    public_key : its OpenSSH line. expires : ISO time. serial : a newer kit of the consortium has a higher one.
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

    names, addresses, port : where sites reach the server. cert_file, key_file, ca_file : absolute, for TLS.
    sites : OpenSSH public key of every site that may take part, by name.
    revoked : names of sites that may no longer, and the fingerprints of keys that a new one replaced.
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
    serial: int


def open_site_kit(folder: Path, now: datetime | None = None) -> SiteKit:
    """A site's kit, checked.

    now : the time to judge by; default: this machine's clock.
    Raises InputError where ``folder`` holds no site's kit, a file of it is missing or was edited, it is not signed by
    the authority whose certificate it carries, it is not valid yet or has expired, or its private key is missing, is
    another site's, or is readable by others.
    """
    folder = Path(folder).absolute()
    record = read_kit(folder, SITE_RECORD, AGAIN)
    check_time(record, folder / SITE_RECORD, now)
    path = folder / "site.key"
    own = load_private(path, "put the key there that this site made, or ask the coordinator for a new kit")
    if key_fingerprint(public_ssh(own.public_key())) != key_fingerprint(record["public_key"]):
        raise InputError(
            f"{path}: is not the key that this kit of site {record['site']} was made for; use the kit of the site that "
            f"the key belongs to, or {AGAIN}"
        )
    return SiteKit(
        folder=folder,
        consortium=record["consortium"],
        consortium_id=record["consortium_id"],
        site=record["site"],
        server_host=record["server"]["host"],
        server_port=record["server"]["port"],
        ca_file=folder / CA_FILE,
        key_file=path,
        public_key=record["public_key"],
        expires=record["expires"],
        serial=record["serial"],
    )


def open_server_kit(folder: Path, now: datetime | None = None) -> ServerKit:
    """The server's kit, checked. Raises InputError as :func:`open_site_kit` does."""
    folder = Path(folder).absolute()
    again = "make it again: adamss-fl provision CONSORTIUM --out DIR --renew server"
    record = read_kit(folder, SERVER_RECORD, again)
    check_time(record, folder / SERVER_RECORD, now)
    certificate = load_certificate(folder / "server.crt", again)
    own = load_private(folder / "server.key", again)
    if certificate.public_key() != own.public_key():
        raise InputError(f"{folder / 'server.key'}: is not the key of server.crt; restore it, or {again}")
    server = record["server"]
    return ServerKit(
        folder=folder,
        consortium=record["consortium"],
        consortium_id=record["consortium_id"],
        names=tuple(server["names"]),
        addresses=tuple(server["addresses"]),
        port=server["port"],
        cert_file=folder / "server.crt",
        key_file=folder / "server.key",
        ca_file=folder / CA_FILE,
        sites=record["sites"],
        revoked=tuple(record["revoked"]),
        expires=record["expires"],
        serial=record["serial"],
    )


def remember(kit: SiteKit, state_dir: Path) -> None:
    """Bind a state folder to a kit on its first use; later, note a renewed kit of the same site.

    Writes consortium, site and the public key's fingerprint into ``STATE/kit.json``.
    Raises InputError as :func:`check_remembered` does, and where the folder cannot be written.
    """
    state_dir = Path(state_dir)
    check_remembered(kit, state_dir)
    path = state_dir / _REMEMBERED
    if path.exists() and kit.serial <= _serial(_read(path)):
        return
    own = {
        "consortium": kit.consortium,
        "consortium_id": kit.consortium_id,
        "site": kit.site,
        "key": key_fingerprint(kit.public_key),
        "serial": kit.serial,
    }
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, own, private=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); let this user write there") from error


def check_remembered(kit: SiteKit, state_dir: Path) -> None:
    """Refuse a kit that is not of the consortium and site that a state folder was first used with.

    A folder that remembers nothing is free for any kit. A renewed kit of the same site is taken, with a new key too;
    an older kit whose key has been replaced is not.
    Raises InputError for another consortium, another site, a replaced key, a memory that cannot be read, and the kit's
    own folder as a state folder.
    """
    path = Path(state_dir) / _REMEMBERED
    if Path(state_dir).resolve() == kit.folder.resolve():
        raise InputError(f"{state_dir}: is the kit's own folder; give a folder below it as 'state' in site.yaml")
    if not path.exists():
        return
    known = _read(path)
    before = f"{known.get('consortium')} {str(known.get('consortium_id'))[:12]}"
    mend = f"use the kit of {known.get('site')}, or give this kit a state folder of its own in site.yaml"
    if known.get("consortium_id") != kit.consortium_id:
        raise InputError(
            f"{kit.folder}: is a kit of another consortium ({kit.consortium} {kit.consortium_id[:12]}) than "
            f"{state_dir} was first used with ({before}); {mend}"
        )
    if known.get("site") != kit.site:
        raise InputError(
            f"{kit.folder}: is the kit of another site ({kit.site}) than {state_dir} was first used with "
            f"({known.get('site')}); {mend}"
        )
    if known.get("key") != key_fingerprint(kit.public_key) and kit.serial <= _serial(known):
        raise InputError(
            f"{kit.folder}: has a key of {kit.site} that a newer kit, used here since, has replaced; use the newer kit"
        )


def _serial(known: dict[str, Any]) -> int:
    serial = known.get("serial")
    return serial if isinstance(serial, int) else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read; restore it, or remove it if this site's kit is the right one"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is damaged; restore it, or remove it if this site's kit is the right one")
    return found
