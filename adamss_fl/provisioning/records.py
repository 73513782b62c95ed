"""The signed records of kits: ``kit.json`` of a site's kit and ``server.json`` of the server's.

A record holds who its machine is, until when it is good, and the hashes of the kit's files that nobody is to change.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.provisioning.certificates import authority_key, certificate_id, load_certificate
from adamss_fl.provisioning.signing import SIGNATURE, digest, is_signed, moment, read_record

SITE_RECORD, SERVER_RECORD = "kit.json", "server.json"
CA_FILE = "ca.crt"
_COMMON: dict[str, type] = {"consortium": str, "consortium_id": str, "server": dict, "serial": int}
_COMMON |= {"issued": str, "expires": str, "files": dict, SIGNATURE: str}
_FIELDS: dict[str, dict[str, type]] = {
    SITE_RECORD: {**_COMMON, "site": str, "public_key": str},
    SERVER_RECORD: {**_COMMON, "sites": dict, "revoked": list},
}
_SERVER: dict[str, dict[str, type]] = {
    SITE_RECORD: {"host": str, "port": int},
    SERVER_RECORD: {"names": list, "addresses": list, "port": int},
}
_COMMAND = {SITE_RECORD: "adamss-fl site start", SERVER_RECORD: "adamss-fl server start"}
AGAIN = "ask the coordinator for a new kit"


def read_kit(folder: Path, name: str, mend: str, files: bool = True) -> dict[str, Any]:
    """A kit's record, with its signature and the hashes of its files verified; times and private key are not judged.

    name : ``kit.json`` or ``server.json``. mend : the end of an error's line. files : whether files are looked at.
    Raises InputError where the kit is none, of another consortium than its certificate, or not whole.
    """
    path = folder / name
    if not is_there(path):
        other = SERVER_RECORD if name == SITE_RECORD else SITE_RECORD
        if is_there(folder / other):
            raise InputError(f"{folder}: is a kit of another kind ({other}); it is for: {_COMMAND[other]}")
        raise InputError(f"{folder}: is no kit ({name} is missing); give a folder that `adamss-fl provision` made")
    record = read_record(path, _FIELDS[name], mend)
    certificate = load_certificate(folder / CA_FILE, mend)
    if record["consortium_id"] != certificate_id(certificate):
        raise InputError(f"{path}: is of another consortium than {CA_FILE} beside it; {mend}")
    if not is_signed(record, authority_key(certificate, str(folder / CA_FILE), mend)):
        raise InputError(f"{path}: was edited, or was not signed by its consortium; {mend}")
    if {key: type(value) for key, value in record["server"].items()} != _SERVER[name]:
        raise InputError(f"{path}: says in a way unknown here where the server is; {mend}")
    for file, expected in record["files"].items() if files else ():
        found = folder / Path(file).name
        try:
            data = found.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{found}: is missing; {mend}") from error
        except OSError as error:
            raise InputError(f"{found}: cannot be read ({error.strerror}); run as its owner") from error
        if digest(data) != expected:
            raise InputError(f"{found}: was edited after it was signed; {mend}")
    return record


def is_there(path: Path) -> bool:
    """Whether there is a file. Raises InputError where its folder cannot be looked into."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run as its owner") from error
    return True


def check_time(record: Mapping[str, Any], path: Path, now: datetime | None) -> None:
    """Judge a kit by the clock (default: this machine's). Raises InputError where it is not yet valid or expired."""
    clock = (now or datetime.now(UTC)).astimezone(UTC)
    issued, expires = (moment(record[key], f"{path}: {key}", AGAIN) for key in ("issued", "expires"))
    if clock < issued:
        raise InputError(
            f"{path}: is not valid before {issued:%Y-%m-%d %H:%M} UTC, and this machine's clock says "
            f"{clock:%Y-%m-%d %H:%M} UTC; set the clock"
        )
    if clock >= expires:
        owner = record.get("site", "server")
        raise InputError(
            f"{path}: expired on {expires:%Y-%m-%d %H:%M} UTC, and this machine's clock says {clock:%Y-%m-%d %H:%M} "
            f"UTC; ask the coordinator for a new kit (provision --renew {owner})"
        )
