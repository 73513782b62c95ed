"""The consortium file: who the server is, and which sites there are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from adamss_fl import yaml_source
from adamss_fl.plugins import suggest
from adamss_fl.yaml_source import Document, Key

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


@dataclass(frozen=True)
class SiteEntry:
    """A site: its name, and the request file where it made its own key."""

    name: str
    request: Path | None = None


@dataclass(frozen=True)
class Consortium:
    """What a consortium file says.

    name : of the consortium. names, addresses : DNS names and IP addresses under which sites reach the server, the
    first name (or else address) being the one in the kits. port : TCP. valid_days : of server certificate and kits.
    """

    name: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    port: int
    valid_days: int
    sites: tuple[SiteEntry, ...]

    @property
    def host(self) -> str:
        """Where sites find the server."""
        return (*self.names, *self.addresses)[0]


def read_consortium(path: Path) -> Consortium:
    """Read a consortium file. Raises InputError naming file, line and key."""
    document = yaml_source.read(path)
    data = _mapping(document, document.data, (), ("name", "server", "valid_days", "sites"))
    server = _mapping(document, data.get("server"), ("server",), ("names", "addresses", "port"))
    names = _texts(document, server, ("server", "names"))
    addresses = _texts(document, server, ("server", "addresses"))
    for number, name in enumerate(names):
        if not HOST.fullmatch(name):
            raise document.error(("server", "names", number), f"{name!r} is no DNS name, such as fl.example.org")
    for number, address in enumerate(addresses):
        try:
            ip_address(address)
        except ValueError as error:
            raise document.error(("server", "addresses", number), f"{address!r} is no IP address") from error
    if not names and not addresses:
        raise document.error(("server",), "give a name or an address under which the sites reach the server")
    return Consortium(
        name=_name(document, data.get("name"), ("name",)),
        names=names,
        addresses=addresses,
        port=_whole(document, server.get("port", 8000), ("server", "port"), 1, 65535),
        valid_days=_whole(document, data.get("valid_days", 397), ("valid_days",), 1, 3650),
        sites=_sites(document, data.get("sites"), path.resolve().parent),
    )


def _sites(document: Document, value: Any, folder: Path) -> tuple[SiteEntry, ...]:
    if not isinstance(value, list) or not value:
        raise document.error(("sites",), "must be a list of sites, such as [{name: hospital-1}]")
    found: dict[str, SiteEntry] = {}
    for number, each in enumerate(value):
        key: Key = ("sites", number)
        entry = _mapping(document, each, key, ("name", "request"))
        name = _name(document, entry.get("name"), (*key, "name"))
        if name in found:
            raise document.error((*key, "name"), f"{name!r} is there twice; each site needs a name of its own")
        request = entry.get("request")
        if request is not None and not isinstance(request, str):
            raise document.error((*key, "request"), "must be the file that the site sent")
        found[name] = SiteEntry(name, None if request is None else folder / request)
    return tuple(found.values())


def _mapping(document: Document, value: Any, key: Key, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise document.error(key, f"must be a mapping of {', '.join(known)}")
    for word in value:
        if word not in known:
            raise document.error((*key, word), f"unknown key '{word}'; {suggest(word, known, 'keys')}")
    return value


def _name(document: Document, value: Any, key: Key) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise document.error(
            key, f"must be letters, digits, - and _, at most 64, a letter or digit first, not {value!r}"
        )
    return value


def _texts(document: Document, server: Mapping[str, Any], key: Key) -> tuple[str, ...]:
    value = server.get(str(key[-1]), [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise document.error(key, "must be a list of texts")
    return tuple(value)


def _whole(document: Document, value: Any, key: Key, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise document.error(key, f"must be a whole number between {least} and {most}, not {value!r}")
    return value
