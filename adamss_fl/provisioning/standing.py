"""A consortium's folder as it stands: its authority, the sites that have kits, and what was revoked.

``DIR/ca`` signs everything and stays with the coordinator. ``DIR/server/server.json`` registers the public key of every
site; ``DIR/revoked.json`` keeps what may never be registered again.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import sync_folder, write_atomically
from adamss_fl.provisioning.certificates import (
    Authority,
    authority_key,
    certificate_pem,
    common_name,
    load_certificate,
    new_authority,
)
from adamss_fl.provisioning.keys import load_private, private_pem
from adamss_fl.provisioning.records import CA_FILE, SERVER_RECORD, SITE_RECORD, is_there, read_kit
from adamss_fl.provisioning.settings import SERVER, Consortium
from adamss_fl.provisioning.signing import SIGNATURE, is_signed, read_record, signed, write_record

REVOKED = "revoked.json"
LOCK = ".lock"
_CA_PART = ".ca.part"
_RESTORE = "restore it from a copy of this folder"
_FIELDS: dict[str, type] = {
    "consortium": str,
    "consortium_id": str,
    "sites": dict,
    "replaced_keys": list,
    SIGNATURE: str,
}


@dataclass(frozen=True)
class Standing:
    """What is out already.

    keys : OpenSSH public key of every site that has a kit and is not revoked, by name.
    registered : those that ``server.json`` has; the key of a kit that was renewed since differs.
    revoked : name -> {key (fingerprint), since}. replaced_keys : fingerprints of keys that a new one replaced.
    serial : the highest so far. server : the server's record, None where there is none yet.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    registered: Mapping[str, str] = field(default_factory=dict)
    revoked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    replaced_keys: tuple[str, ...] = ()
    serial: int = 0
    server: Mapping[str, Any] | None = None


def private_folder(path: Path) -> None:
    """Make a folder, and those above it, that only the owner may enter (0700)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def open_authority(out: Path, name: str) -> Authority | None:
    """The authority in a consortium's folder; None for a folder that is empty or not there.

    Raises InputError for a folder of something else, of another consortium than ``name``, and where key and certificate
    are damaged or do not belong together.
    """
    folder = out / "ca"
    if not is_there(folder):
        if is_there(out) and (not out.is_dir() or any(path.name not in (LOCK, _CA_PART) for path in out.iterdir())):
            raise InputError(f"{out}: is not empty and has no consortium's authority (ca); give another --out")
        return None
    certificate = load_certificate(folder / CA_FILE, _RESTORE)
    public = authority_key(certificate, str(folder / CA_FILE), _RESTORE)
    key = load_private(folder / "ca.key", _RESTORE)
    if key.public_key() != public:
        raise InputError(f"{folder / 'ca.key'}: is not the key of {CA_FILE} beside it; {_RESTORE}")
    if common_name(certificate) != name:
        raise InputError(
            f"{out}: is the folder of the consortium {common_name(certificate)!r}, and the file is of {name!r}; give "
            "another --out, or mend the name"
        )
    return Authority(key, certificate)


def make_authority(out: Path, name: str, now: datetime) -> Authority:
    """Make the authority of a new consortium; it is there whole or not at all."""
    authority = new_authority(name, now)
    part = out / _CA_PART
    shutil.rmtree(part, ignore_errors=True)
    private_folder(part)
    write_atomically(part / CA_FILE, certificate_pem(authority.certificate), private=True)
    write_atomically(part / "ca.key", private_pem(authority.key), private=True)
    part.rename(out / "ca")
    sync_folder(out)
    return authority


def read_standing(out: Path, consortium: Consortium, authority: Authority, again: Collection[str]) -> Standing:
    """What is out already, verified.

    again : ``server`` and sites whose kits are about to be made again or revoked, and so may be damaged.
    Raises InputError where a record or a kit is missing, was edited, or is another consortium's.
    """
    server = _server_record(out, consortium, authority, again)
    revoked = _revoked(out, authority, needed=server is not None)
    registered: dict[str, str] = {} if server is None else dict(server["sites"])
    folders = {path.parent.name for path in (out / "sites").glob(f"*/{SITE_RECORD}")}
    keys, serial = {}, 0 if server is None else int(server["serial"])
    for name in sorted((folders | set(registered)) - set(revoked["sites"])):
        mend = f"{_RESTORE}, or make the kit again: {command(consortium, out)} --renew {name}"
        if name in again and name in registered:
            keys[name] = registered[name]
            continue
        path = out / "sites" / name / SITE_RECORD
        if not is_there(path):
            raise InputError(f"{path}: is missing, and {name} is registered; {mend}")
        kit = read_kit(path.parent, SITE_RECORD, mend)
        if kit["consortium_id"] != authority.id or kit["site"] != name:
            raise InputError(f"{path}: is of another site or consortium; {mend}")
        if name in registered and registered[name] != kit["public_key"] and kit["serial"] <= serial:
            raise InputError(f"{path}: has another key than the one that is registered for {name}; {mend}")
        keys[name] = kit["public_key"]
        serial = max(serial, kit["serial"])
    return Standing(keys, registered, revoked["sites"], tuple(revoked["replaced_keys"]), serial, server)


def write_revoked(
    out: Path, authority: Authority, sites: Mapping[str, Mapping[str, str]], replaced_keys: Collection[str]
) -> None:
    """Write ``revoked.json``, signed; one that says the same already is left as it is."""
    content = {
        "consortium": common_name(authority.certificate),
        "consortium_id": authority.id,
        "sites": {name: dict(entry) for name, entry in sites.items()},
        "replaced_keys": sorted(replaced_keys),
    }
    path = out / REVOKED
    if path.exists():
        before = read_record(path, _FIELDS, _RESTORE)
        if {key: value for key, value in before.items() if key != SIGNATURE} == content:
            return
    write_record(path, signed(content, authority.key))


def command(consortium: Consortium, out: Path) -> str:
    """The command line that a person gives for this consortium, to be continued by an option."""
    return f"adamss-fl provision {consortium.source} --out {out}"


def _server_record(
    out: Path, consortium: Consortium, authority: Authority, again: Collection[str]
) -> dict[str, Any] | None:
    folder = out / "server"
    if not is_there(folder / SERVER_RECORD):
        return None
    mend = f"{_RESTORE}, or make it again: {command(consortium, out)} --renew server"
    record = read_kit(folder, SERVER_RECORD, _RESTORE, files=False)
    if record["consortium_id"] != authority.id:
        raise InputError(f"{folder / SERVER_RECORD}: is of another consortium; {_RESTORE}")
    if SERVER not in again:
        read_kit(folder, SERVER_RECORD, mend)
    return record


def _revoked(out: Path, authority: Authority, needed: bool) -> dict[str, Any]:
    path = out / REVOKED
    if not needed and not is_there(path):
        return {"sites": {}, "replaced_keys": []}
    record = read_record(path, _FIELDS, _RESTORE)
    if record["consortium_id"] != authority.id or not is_signed(record, authority.key.public_key()):
        raise InputError(f"{path}: was edited, or is another consortium's; {_RESTORE}")
    return record
