"""Making a consortium's folder, and changing it later without touching what is out: adding, renewing, revoking."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from adamss_fl.errors import InputError
from adamss_fl.federation.files import locked
from adamss_fl.plugins import suggest
from adamss_fl.provisioning import standing
from adamss_fl.provisioning.keys import key_fingerprint, load_private, new_key, public_ssh
from adamss_fl.provisioning.making import Maker, check_authority_in_time
from adamss_fl.provisioning.records import SERVER_RECORD, SITE_RECORD, read_kit
from adamss_fl.provisioning.requests import read_request
from adamss_fl.provisioning.settings import SERVER, Consortium
from adamss_fl.provisioning.signing import moment
from adamss_fl.provisioning.standing import Standing, command

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

SOON = timedelta(days=30)
"""A kit that expires within this time is told about."""


@dataclass(frozen=True)
class _Call:
    """One call: what is asked, of which consortium and folder. requests : public key by site that made its own."""

    consortium: Consortium
    out: Path
    renew: str
    revoke: str
    fresh_key: bool
    requests: Mapping[str, str]

    @property
    def command(self) -> str:
        return command(self.consortium, self.out)


@dataclass
class _Plan:
    """What is to be: public key by site that takes part, those whose kits are made now, new private keys."""

    keys: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    own: "dict[str, EllipticCurvePrivateKey]" = field(default_factory=dict)


def provision(
    consortium: Consortium,
    out: Path,
    renew: str = "",
    revoke: str = "",
    new_key: bool = False,
    now: datetime | None = None,
) -> dict[str, Path]:
    """Make or bring up to date a consortium's folder; returns the folder of every kit, by ``server`` or site.

    Sites that are new in the file get kits; the files of every other site stay byte for byte as they are, but for the
    one that is renewed. The server's record, which registers the sites' keys, is issued anew in any case.

    renew : a site, or ``server``: a kit with new dates, and the same key unless ``new_key``.
    revoke : a site that is to take part no longer, nor its key under any name. now : default: this machine's clock.
    Raises InputError, before anything is changed, for a folder that is damaged or of another consortium, an unknown
    name, a bad request, a key that is used twice or was revoked, a site that is gone from the file without being
    revoked, and an authority that has expired; also where the folder cannot be written.
    """
    time = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    requests = {site.name: read_request(site.request, site.name) for site in consortium.sites if site.request}
    call = _Call(consortium, Path(out), renew, revoke, new_key, requests)
    _check_options(call)
    try:
        if standing.open_authority(call.out, consortium.name) is None:
            if renew or revoke:
                raise InputError(f"{out}: has no kits yet; make them first: {call.command}")
            _plan(call, Standing())  # refuses what can be refused before there is a folder
        standing.private_folder(call.out)
        with locked(call.out / standing.LOCK):
            return _provision(call, time)
    except OSError as error:
        raise InputError(f"{error.filename or out}: cannot be read or written ({error.strerror})") from error


def cautions(consortium: Consortium, out: Path, now: datetime | None = None) -> list[str]:
    """What the coordinator should know of kits that are out: those that expire soon, and those for another server.

    Raises InputError where a kit is damaged.
    """
    time = (now or datetime.now(UTC)).astimezone(UTC)
    here = {"host": consortium.host, "port": consortium.port}
    server = read_kit(Path(out) / "server", SERVER_RECORD, "restore it")
    found = []
    for name in (SERVER, *sorted(server["sites"])):
        record = server if name == SERVER else read_kit(Path(out) / "sites" / name, SITE_RECORD, "restore it")
        again = f"renew it: {command(consortium, out)} --renew {name}"
        expires = moment(record["expires"], name, again)
        if expires - time < SOON:
            found.append(f"{name}: the kit expires on {expires:%Y-%m-%d %H:%M} UTC; {again}")
        if name != SERVER and record["server"] != here:
            there = f"{record['server']['host']}:{record['server']['port']}"
            found.append(f"{name}: the kit looks for the server at {there}, not {here['host']}:{here['port']}; {again}")
    return found


def _provision(call: _Call, now: datetime) -> dict[str, Path]:
    out, consortium = call.out, call.consortium
    authority = standing.open_authority(out, consortium.name)
    if authority is None:
        authority = standing.make_authority(out, consortium.name, now)
    check_authority_in_time(authority, now, out / "ca" / "ca.crt")
    before = standing.read_standing(out, consortium, authority, {call.renew, call.revoke})
    _check_names(call, before)
    plan = _plan(call, before)
    maker = Maker(consortium, authority, now)
    _write(call, maker, before, plan)
    return {SERVER: out / "server"} | {name: out / "sites" / name for name in plan.keys}


def _write(call: _Call, maker: Maker, before: Standing, plan: _Plan) -> None:
    serial = before.serial
    for name in plan.made:
        serial += 1
        same_key = before.keys.get(name) == plan.keys[name]
        folder = call.out / "sites" / name
        standing.private_folder(folder.parent)
        maker.site_kit(folder, name, plan.keys[name], plan.own.get(name), keep=same_key, serial=serial)
    revoked = {name: dict(entry) for name, entry in before.revoked.items()}
    if call.revoke and call.revoke not in revoked:
        revoked[call.revoke] = {"key": key_fingerprint(before.keys[call.revoke]), "since": maker.now.isoformat()}
    replaced = {key_fingerprint(key) for name, key in before.registered.items() if plan.keys.get(name, key) != key}
    replaced |= set(before.replaced_keys)
    standing.write_revoked(call.out, maker.authority, revoked, replaced)
    server = None if before.server is None else before.server["server"]
    named = {"names": list(call.consortium.names), "addresses": list(call.consortium.addresses)}
    maker.server_kit(
        call.out / "server",
        sites=dict(sorted(plan.keys.items())),
        revoked=[*sorted(revoked), *sorted(replaced)],
        serial=serial + 1,
        new_certificate=server is None or call.renew == SERVER or any(server[key] != named[key] for key in named),
        fresh_key=server is None or (call.renew == SERVER and call.fresh_key),
    )


def _check_options(call: _Call) -> None:
    if call.fresh_key and not call.renew:
        raise InputError("--new-key: goes with --renew; say whose key is to be new")
    if call.renew and call.revoke:
        raise InputError("--renew and --revoke are two steps; give one of them")


def _check_names(call: _Call, before: Standing) -> None:
    """Refuse names that are unknown, and sites that are gone from the file without having been revoked."""
    if call.revoke and call.revoke not in before.keys and call.revoke not in before.revoked:
        raise InputError(f"--revoke: no site {call.revoke!r} has a kit; {suggest(call.revoke, before.keys, 'sites')}")
    if call.renew in before.revoked:
        raise InputError(f"--renew: {call.renew} is revoked; a site comes back under a new name, with a new key")
    if call.renew and call.renew != SERVER and call.renew not in before.keys:
        known = suggest(call.renew, [SERVER, *before.keys], "kits")
        raise InputError(f"--renew: no site {call.renew!r} has a kit; {known}")
    listed = {site.name for site in call.consortium.sites}
    for name in sorted(set(before.keys) - listed - {call.revoke}):
        raise InputError(
            f"{call.consortium.source}: sites: {name} has a kit and is not there any more; put it back, or take its "
            f"right away: {call.command} --revoke {name}"
        )


def _plan(call: _Call, before: Standing) -> _Plan:
    """Decide every site's key. Raises InputError for a key that cannot be used; nothing is written here."""
    plan = _Plan()
    for site in call.consortium.sites:
        name = site.name
        if name in before.revoked or name == call.revoke:
            continue
        renewed = name == call.renew
        if renewed or name not in before.keys:
            plan.made.append(name)
        if name in before.keys and not (renewed and call.fresh_key):
            plan.keys[name] = _same_key(call, before, name)
        elif name in call.requests:
            plan.keys[name] = _requested_key(call, before, name)
        else:
            plan.own[name] = new_key()
            plan.keys[name] = public_ssh(plan.own[name].public_key())
    gone = {entry["key"]: name for name, entry in before.revoked.items()} | dict.fromkeys(before.replaced_keys, "")
    if call.revoke in before.keys:
        gone[key_fingerprint(before.keys[call.revoke])] = call.revoke
    owners: dict[str, str] = {}
    for name, key in plan.keys.items():
        mark = key_fingerprint(key)
        if mark in gone:
            whose = f"of {gone[mark]}, which is revoked" if gone[mark] else "that was replaced"
            raise InputError(f"{_place(call, name)}: has a key {whose}; have {name} make a new key and request")
        if mark in owners:
            raise InputError(
                f"{_place(call, name)}: has the same key as {owners[mark]}; have each site make a key of its own"
            )
        owners[mark] = name
    return plan


def _same_key(call: _Call, before: Standing, name: str) -> str:
    """The key that a site has; its request, where there is one, and its private key must not say otherwise."""
    key = before.keys[name]
    if call.requests.get(name, key) != key:
        raise InputError(
            f"{_place(call, name)}: has another key than the kit of {name}; put the old request back, or change the "
            f"key: {call.command} --renew {name} --new-key"
        )
    path = call.out / "sites" / name / "site.key"
    if name == call.renew and path.exists():
        own = load_private(path, f"restore it, or make a new one: --renew {name} --new-key")
        if public_ssh(own.public_key()) != key:
            raise InputError(
                f"{path}: is not the key that is registered for {name}; restore it, or make a new one: --renew {name} "
                "--new-key"
            )
    return key


def _requested_key(call: _Call, before: Standing, name: str) -> str:
    key = call.requests[name]
    if key == before.keys.get(name):
        raise InputError(f"{_place(call, name)}: has the key that {name} uses now; have {name} make a new request")
    return key


def _place(call: _Call, name: str) -> str:
    """Where a site's key comes from."""
    request = next((site.request for site in call.consortium.sites if site.name == name), None)
    return str(request if request is not None else call.out / "sites" / name)
