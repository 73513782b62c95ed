"""Writing one kit: a site's or the server's, each file whole or absent, the signed record last."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically
from adamss_fl.provisioning import texts
from adamss_fl.provisioning.certificates import Authority, certificate_pem, load_certificate, server_certificate
from adamss_fl.provisioning.keys import load_private, new_key, private_pem, private_ssh
from adamss_fl.provisioning.records import CA_FILE, SERVER_RECORD, SITE_RECORD
from adamss_fl.provisioning.settings import Consortium
from adamss_fl.provisioning.signing import digest, signed, write_record
from adamss_fl.provisioning.standing import private_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


@dataclass(frozen=True)
class Maker:
    """What all kits of one call have in common. now : to the second, in UTC."""

    consortium: Consortium
    authority: Authority
    now: datetime

    @property
    def expires(self) -> datetime:
        """Until when a kit made now is good: never longer than the authority itself."""
        return min(
            self.now + timedelta(days=self.consortium.valid_days), self.authority.certificate.not_valid_after_utc
        )

    def site_kit(
        self, folder: Path, site: str, public_key: str, own: "EllipticCurvePrivateKey | None", keep: bool, serial: int
    ) -> None:
        """Write a site's kit; what is the hospital's to edit stays where it is there already.

        own : the site's private key, None where the kit gets none. keep : the ``site.key`` that lies there stays.
        """
        private_folder(folder)
        key_path = folder / "site.key"
        if own is not None:
            write_atomically(key_path, private_ssh(own), private=True)
        elif not keep:
            key_path.unlink(missing_ok=True)
        host, port, name = self.consortium.host, self.consortium.port, self.consortium.name
        readme = texts.site_readme(site, name, host, port, self.expires, has_key=key_path.exists())
        hashed = {
            CA_FILE: certificate_pem(self.authority.certificate),
            "site.pub": f"{public_key}\n".encode(),
            "start.sh": texts.start_script("site").encode(),
            "README.md": readme.encode(),
        }
        editable = {
            "site.yaml": texts.SITE_SETTINGS,
            "state/policy.yaml": texts.SITE_POLICY,
            texts.unit_file("site"): texts.unit("site", f"site {site}", name),
        }
        own_record = {"site": site, "public_key": public_key, "server": {"host": host, "port": port}}
        self._write(folder, SITE_RECORD, hashed, editable, own_record, self.expires, serial)

    def server_kit(
        self,
        folder: Path,
        sites: Mapping[str, str],
        revoked: Collection[str],
        serial: int,
        new_certificate: bool,
        fresh_key: bool,
    ) -> None:
        """Write the server's kit, with the registration list.

        new_certificate : else the one there is kept. fresh_key : the certificate gets a new key.
        Raises InputError where a key or certificate that is to be kept cannot be read.
        """
        private_folder(folder)
        consortium = self.consortium
        certificate_path, key_path = folder / "server.crt", folder / "server.key"
        if new_certificate:
            lost = f"restore it, or give --renew {folder.name} --new-key"
            own = new_key() if fresh_key else load_private(key_path, lost)
            certificate = server_certificate(
                self.authority, own.public_key(), consortium.names, consortium.addresses, self.now, self.expires
            )
            write_atomically(key_path, private_pem(own), private=True)
            write_atomically(certificate_path, certificate_pem(certificate), private=True)
        expires = load_certificate(certificate_path, "give --renew server").not_valid_after_utc
        hashed = {
            CA_FILE: certificate_pem(self.authority.certificate),
            "server.crt": certificate_path.read_bytes(),
            "start.sh": texts.start_script("server").encode(),
            "README.md": texts.server_readme(consortium.name, consortium.host, consortium.port, expires).encode(),
        }
        editable = {texts.unit_file("server"): texts.unit("server", "server", consortium.name)}
        own_record = {
            "server": {
                "names": list(consortium.names),
                "addresses": list(consortium.addresses),
                "port": consortium.port,
            },
            "sites": dict(sites),
            "revoked": list(revoked),
        }
        self._write(folder, SERVER_RECORD, hashed, editable, own_record, expires, serial)

    def _write(
        self,
        folder: Path,
        name: str,
        hashed: Mapping[str, bytes],
        editable: Mapping[str, str],
        own_record: Mapping[str, Any],
        expires: datetime,
        serial: int,
    ) -> None:
        for file, data in hashed.items():
            write_atomically(folder / file, data, private=True)
        (folder / "start.sh").chmod(0o700)
        for file, text in editable.items():
            path = folder / file
            private_folder(path.parent)
            if not path.exists():
                write_atomically(path, text.encode(), private=True)
        record = {
            **own_record,
            "consortium": self.consortium.name,
            "consortium_id": self.authority.id,
            "serial": serial,
            "issued": self.now.isoformat(),
            "expires": expires.isoformat(),
            "files": {file: digest(data) for file, data in hashed.items()},
        }
        write_record(folder / name, signed(record, self.authority.key))


def check_authority_in_time(authority: Authority, now: datetime, where: Path) -> None:
    """Raise InputError where the authority itself is not valid at ``now``."""
    begins, ends = authority.certificate.not_valid_before_utc, authority.certificate.not_valid_after_utc
    if now < begins:
        raise InputError(f"{where}: is not valid before {begins:%Y-%m-%d %H:%M} UTC; set this machine's clock")
    if now >= ends:
        raise InputError(f"{where}: expired on {ends:%Y-%m-%d}; make a new consortium with another --out")
