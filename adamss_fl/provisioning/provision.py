"""Making a consortium's folder, and changing it later without touching what is already out: adding, renewing, revoking.

``DIR/ca`` stays with the coordinator and signs everything else; ``DIR/server`` goes to the server, ``DIR/sites/NAME``
to each site.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically, write_json
from adamss_fl.provisioning import keys, texts
from adamss_fl.provisioning.kits import KIT, SERVER
from adamss_fl.provisioning.settings import NAME, Consortium, SiteEntry

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

REVOKED = "revoked.json"


@dataclass(frozen=True)
class _Authority:
    key: "EllipticCurvePrivateKey"
    certificate: "Certificate"

    @property
    def id(self) -> str:
        return keys.fingerprint(self.certificate)


def provision(
    consortium: Consortium,
    out: Path,
    renew: str = "",
    revoke: str = "",
    new_key: bool = False,
    now: datetime | None = None,
) -> dict[str, Path]:
    """Make or bring up to date the folder of a consortium; returns every kit's folder by ``server`` or site.

    Existing sites' kits are left byte for byte as they are, but for the site named by ``renew``.

    renew : a site, or ``server``: a kit with new dates, and the same key unless ``new_key``.
    revoke : a site that is to take part no longer.
    Raises InputError for a folder of another consortium, an unknown name, a bad request, or a site that has gone from
    the file without being revoked.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    authority = _authority(consortium, out, moment)
    revoked = _revoked(out, authority)
    listed = {site.name: site for site in consortium.sites}
    made = {path.parent.name for path in (out / "sites").glob(f"*/{KIT}")}
    if revoke:
        if revoke not in made and revoke not in revoked:
            raise InputError(
                f"--revoke {revoke}: there is no such site; there are: {', '.join(sorted(made)) or 'none'}"
            )
        revoked = tuple(sorted({*revoked, revoke}))
    if renew not in ("", "server") and (renew not in listed or renew in revoked):
        raise InputError(f"--renew {renew}: there is no such site in the consortium file, or it is revoked")
    for name in sorted(made - set(listed) - set(revoked)):
        raise InputError(
            f"{name}: has a kit and is not in the consortium file; put it back, or take its right away: --revoke {name}"
        )
    for site in consortium.sites:
        if site.name in revoked:
            continue
        if site.name not in made or site.name == renew:
            _site_kit(consortium, site, out / "sites" / site.name, authority, moment, new_key and site.name == renew)
    write_json(out / REVOKED, keys.signed({"consortium_id": authority.id, "revoked": list(revoked)}, authority.key))
    _server_kit(consortium, out, authority, revoked, moment, renew == "server", new_key)
    kits = {"server": out / "server"}
    return kits | {site.name: out / "sites" / site.name for site in consortium.sites if site.name not in revoked}


def request(site: str, out: Path) -> Path:
    """At a hospital: make the site's own key and the request that the coordinator is sent; returns the request's path.

    Raises InputError for a name that is none, or where there already is a key.
    """
    if not NAME.fullmatch(site):
        raise InputError(f"--request {site!r}: must be letters, digits, - and _, at most 64")
    if (out / "site.key").exists():
        raise InputError(f"{out / 'site.key'}: there already is a key; use it, or give another --out")
    key = keys.new_key()
    write_atomically(out / "site.key", keys.private_ssh(key), private=True)
    path = out / f"{site}.request.json"
    write_json(path, keys.signed({"site": site, "public_key": keys.public_ssh(key.public_key())}, key))
    return path


def _authority(consortium: Consortium, out: Path, now: datetime) -> _Authority:
    """The consortium's authority, made where there is none yet."""
    folder, name = out / "ca", out / "ca" / "consortium.json"
    if not (folder / "ca.key").exists():
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out}: is not empty and holds no authority of a consortium; give another --out")
        key, certificate = keys.new_authority(consortium.name, now)
        folder.mkdir(parents=True, mode=0o700)
        write_json(name, keys.signed({"consortium": consortium.name}, key))
        write_atomically(folder / "ca.crt", keys.certificate_pem(certificate))
        write_atomically(folder / "ca.key", keys.private_pem(key), private=True)
        return _Authority(key, certificate)
    key, certificate = keys.load_private(folder / "ca.key"), keys.load_certificate(folder / "ca.crt")
    if certificate.public_key() != key.public_key():
        raise InputError(f"{folder}: ca.key is not the key of ca.crt; restore the folder")
    record = _signed_record(name, key)
    if record["consortium"] != consortium.name:
        raise InputError(
            f"{out}: is the folder of the consortium {record['consortium']!r}, and the file says {consortium.name!r}; "
            "give another --out, or mend the name"
        )
    return _Authority(key, certificate)


def _revoked(out: Path, authority: _Authority) -> tuple[str, ...]:
    path = out / REVOKED
    return tuple(_signed_record(path, authority.key)["revoked"]) if path.exists() else ()


def _signed_record(path: Path, key: "EllipticCurvePrivateKey") -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read; restore it") from error
    if not isinstance(record, dict) or not keys.is_signed(record, key.public_key()):
        raise InputError(f"{path}: was edited or is another consortium's; restore it")
    return record


def _site_kit(
    consortium: Consortium, site: SiteEntry, folder: Path, authority: _Authority, now: datetime, new_key: bool
) -> None:
    known = folder / "site.pub"
    own: EllipticCurvePrivateKey | None = None
    if site.request is not None:
        public = _requested_key(site.name, site.request)
    elif known.exists() and not new_key:
        public = known.read_text(encoding="utf-8").strip()
    else:
        own = keys.new_key()
        public = keys.public_ssh(own.public_key())
    _private_folder(folder)
    expires = now + timedelta(days=consortium.valid_days)
    names = {
        "site": site.name,
        "consortium": consortium.name,
        "host": consortium.host,
        "port": consortium.port,
        "expires": f"{expires:%Y-%m-%d}",
        "own_key": "" if site.request is None else texts.OWN_KEY,
    }
    hashed = {
        "ca.crt": keys.certificate_pem(authority.certificate),
        "site.pub": f"{public}\n".encode(),
        "start.sh": texts.SITE_START.encode(),
    }
    _write(folder, hashed)
    unit = texts.UNIT.format(what=f"site {site.name}", consortium=consortium.name, role="site")
    _write(folder, {"README.md": texts.SITE_README.format(**names).encode(), "adamss-fl-site.service": unit.encode()})
    for name, text in (("site.yaml", texts.SITE_YAML), ("state/policy.yaml", texts.POLICY)):
        if not (folder / name).exists():  # the hospital's own from then on
            write_atomically(folder / name, text.encode(), private=True)
    if own is not None:
        write_atomically(folder / "site.key", keys.private_ssh(own), private=True)
    record = {
        "consortium": consortium.name,
        "consortium_id": authority.id,
        "site": site.name,
        "public_key": public,
        "server": {"host": consortium.host, "port": consortium.port},
        "serial": int(now.timestamp()),
        **_dates(now, expires),
        "files": _hashes(hashed),
    }
    write_json(folder / KIT, keys.signed(record, authority.key), private=True)


def _server_kit(
    consortium: Consortium,
    out: Path,
    authority: _Authority,
    revoked: tuple[str, ...],
    now: datetime,
    renew: bool,
    new_key: bool,
) -> None:
    folder = out / "server"
    _private_folder(folder)
    certificate_path, key_path = folder / "server.crt", folder / "server.key"
    if renew or not certificate_path.exists() or not _certifies(certificate_path, consortium):
        own = keys.load_private(key_path) if key_path.exists() and not new_key else keys.new_key()
        certificate = keys.server_certificate(
            (authority.key, authority.certificate),
            own,
            consortium.names,
            consortium.addresses,
            now,
            consortium.valid_days,
        )
        write_atomically(key_path, keys.private_pem(own), private=True)
        write_atomically(certificate_path, keys.certificate_pem(certificate))
    expires = keys.load_certificate(certificate_path).not_valid_after_utc
    hashed = {
        "ca.crt": keys.certificate_pem(authority.certificate),
        "server.crt": certificate_path.read_bytes(),
        "start.sh": texts.SERVER_START.encode(),
    }
    _write(folder, hashed)
    names = {"consortium": consortium.name, "host": consortium.host, "port": consortium.port}
    readme = texts.SERVER_README.format(**names, expires=f"{expires:%Y-%m-%d}")
    unit = texts.UNIT.format(what="server", consortium=consortium.name, role="server")
    _write(folder, {"README.md": readme.encode(), "adamss-fl-server.service": unit.encode()})
    sites = {
        site.name: (out / "sites" / site.name / "site.pub").read_text(encoding="utf-8").strip()
        for site in consortium.sites
        if site.name not in revoked
    }
    record = {
        "consortium": consortium.name,
        "consortium_id": authority.id,
        "server": {
            "names": list(consortium.names),
            "addresses": list(consortium.addresses),
            "port": consortium.port,
        },
        "sites": sites,
        "revoked": list(revoked),
        **_dates(now, expires),
        "files": _hashes(hashed),
    }
    write_json(folder / SERVER, keys.signed(record, authority.key), private=True)


def _certifies(path: Path, consortium: Consortium) -> bool:
    """Whether a certificate is good for every name and address of the server."""
    from cryptography import x509

    extension = keys.load_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {*extension.get_values_for_type(x509.DNSName), *map(str, extension.get_values_for_type(x509.IPAddress))}
    return {*consortium.names, *consortium.addresses} <= known


def _requested_key(site: str, path: Path) -> str:
    """The public key in a site's request, which must be signed by that key and be for that site."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        public = str(record["public_key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no request of a site; make one: adamss-fl provision --request {site}") from error
    if not keys.is_signed(record, keys.load_public(public, str(path))):
        raise InputError(f"{path}: the request was edited, or not made by the owner of its key; ask for it again")
    if record.get("site") != site:
        raise InputError(f"{path}: is the request of {record.get('site')!r}, not of {site!r}; ask for the right one")
    return public


def _private_folder(folder: Path) -> None:
    for each in (folder.parent, folder):
        each.mkdir(parents=True, exist_ok=True)
        each.chmod(0o700)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        write_atomically(folder / name, data, private=True)
        if name.endswith(".sh"):
            (folder / name).chmod(0o700)


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _dates(now: datetime, expires: datetime) -> dict[str, str]:
    return {"issued": now.isoformat(), "expires": expires.isoformat()}
