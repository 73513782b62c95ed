"""The consortium file: where the server is, which sites there are, and for how long kits are good."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from adamss_fl import yaml_source
from adamss_fl.plugins import suggest
from adamss_fl.yaml_source import Document, Key

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
"""Names of consortium and sites: also names of folders, and a certificate's common name, which has 64 characters."""

NAME_RULE = "1 to 64 letters, digits, '.', '_' and '-', the first and the last a letter or digit"
SERVER = "server"
"""What ``--renew`` calls the server; no site can be called so."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_DAYS_AT_MOST = 3650


@dataclass(frozen=True)
class SiteEntry:
    """A site.

    name : unique, whatever its capitals. request : the file with the public key of a site that made its own key.
    """

    name: str
    request: Path | None = None


@dataclass(frozen=True)
class Consortium:
    """What a consortium file says.

    name : of the consortium, the same for as long as its authority lives.
    names, addresses : DNS names and IP addresses under which sites reach the server; at least one of them.
    port : TCP port of the server. valid_days : how long the server's certificate and the kits are good.
    source : the file, as it was given.
    """

    name: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    sites: tuple[SiteEntry, ...]
    port: int = 8000
    valid_days: int = 397
    source: Path = Path("consortium.yaml")

    @property
    def host(self) -> str:
        """Where the kits say that the server is: its first name, or else its first address."""
        return (*self.names, *self.addresses)[0]


def read_consortium(path: Path) -> Consortium:
    """Read a consortium file; request files are relative to it.

    Raises InputError, with file, line and key, for an unknown or missing key, a name that is no safe file name or is
    there twice, a server without name and address, and a request file that is missing.
    """
    path = Path(path)
    document = yaml_source.read(path)
    data = _mapping(document, document.data, (), ("name", "server", "valid_days", "sites"))
    server = _mapping(document, _given(document, data, (), "server"), ("server",), ("names", "addresses", "port"))
    names, addresses = _names(document, server), _addresses(document, server)
    if not names and not addresses:
        raise document.error(
            ("server",), "has neither names nor addresses; give one under which the sites reach the server"
        )
    return Consortium(
        name=_name(document, _given(document, data, (), "name"), ("name",)),
        names=names,
        addresses=addresses,
        sites=_sites(document, _given(document, data, (), "sites"), path.parent),
        port=_whole(document, server.get("port", Consortium.port), ("server", "port"), 65535),
        valid_days=_whole(document, data.get("valid_days", Consortium.valid_days), ("valid_days",), _DAYS_AT_MOST),
        source=path,
    )


def _sites(document: Document, value: Any, folder: Path) -> tuple[SiteEntry, ...]:
    if not isinstance(value, list) or not value:
        raise document.error(("sites",), "must be a list of at least one site, such as '- {name: hospital-1}'")
    found: list[SiteEntry] = []
    lines: dict[str, str] = {}
    for number, item in enumerate(value):
        key: Key = ("sites", number)
        entry = _mapping(document, item, key, ("name", "request"))
        name = _name(document, _given(document, entry, key, "name"), (*key, "name"))
        if name.lower() in lines:
            where = lines[name.lower()]
            raise document.error((*key, "name"), f"{name!r} is there already at {where}; give each site its own name")
        if name.lower() == SERVER:
            raise document.error((*key, "name"), f"{name!r} is what the server is called; give the site another name")
        lines[name.lower()] = document.where((*key, "name")).partition(": ")[0]
        found.append(SiteEntry(name, _request(document, entry, key, folder, name)))
    return tuple(found)


def _request(document: Document, entry: Mapping[str, Any], key: Key, folder: Path, name: str) -> Path | None:
    key = (*key, "request")
    if "request" not in entry:
        return None
    value = entry["request"]
    if not isinstance(value, str) or not value:
        raise document.error(key, f"must be the file that the site sent, such as {name}.request.json, not {value!r}")
    path = folder / Path(value).expanduser()
    if not path.is_file():
        raise document.error(
            key, f"there is no file {path}; the site makes it with: adamss-fl provision --request {name} --out FOLDER"
        )
    return path


def _names(document: Document, server: Mapping[str, Any]) -> tuple[str, ...]:
    names = _texts(document, server, "names")
    for number, name in enumerate(names):
        key: Key = ("server", "names", number)
        if _is_address(name):
            raise document.error(key, f"{name} is an address; write it under server.addresses")
        if not _HOST.fullmatch(name):
            raise document.error(key, f"{name!r} is no DNS name; write it like fl.example.org")
    return names


def _addresses(document: Document, server: Mapping[str, Any]) -> tuple[str, ...]:
    addresses = _texts(document, server, "addresses")
    for number, address in enumerate(addresses):
        key: Key = ("server", "addresses", number)
        if not _is_address(address):
            raise document.error(key, f"{address!r} is no IP address; write it like 192.0.2.10, and names under names")
        if ip_address(address).is_unspecified or ip_address(address).is_multicast:
            raise document.error(key, f"{address} is no machine's address; give the one that sites connect to")
    return addresses


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _texts(document: Document, server: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = server.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise document.error(("server", name), f"must be a list of texts, not {value!r}")
    twice = next((each for number, each in enumerate(value) if each in value[:number]), None)
    if twice is not None:
        raise document.error(("server", name), f"{twice} is there twice; remove one")
    return tuple(value)


def _mapping(document: Document, value: Any, key: Key, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise document.error(key, f"must be a mapping of {', '.join(known)}, not {value!r}")
    for word in value:
        if word not in known:
            raise document.error((*key, word), f"unknown key '{word}'; {suggest(word, known, 'keys')}")
    return value


def _given(document: Document, data: Mapping[str, Any], key: Key, name: str) -> Any:
    if name not in data:
        raise document.error((*key, name), "is missing; it must be given")
    return data[name]


def _name(document: Document, value: Any, key: Key) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise document.error(key, f"must be {NAME_RULE}, not {value!r}")
    return value


def _whole(document: Document, value: Any, key: Key, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise document.error(key, f"must be a whole number from 1 to {most}, not {value!r}")
    return value
