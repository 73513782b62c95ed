"""A site that makes its own key: no private key travels, and nobody can ask with another's name or key."""

import base64
import json
import shutil
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from consortium_office import NOW, Office
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from adamss_fl.errors import InputError
from adamss_fl.provisioning.keys import key_fingerprint, new_key, public_ssh
from adamss_fl.provisioning.kits import open_server_kit, open_site_kit
from adamss_fl.provisioning.requests import make_request, read_request
from adamss_fl.provisioning.signing import signed, write_record

LATER = NOW + timedelta(days=10)
SITES = [{"name": "north"}, {"name": "south"}, {"name": "east", "request": "east.request.json"}]


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Where the staff of site east made their key."""
    make_request("east", tmp_path / "hospital")
    return tmp_path / "hospital"


@pytest.fixture
def asked(office: Office, hospital: Path) -> Office:
    """A coordinator who was sent the request of site east, and has put it into the file."""
    shutil.copy(hospital / "east.request.json", office.folder)
    office.write(sites=SITES)
    return office


def public_of(hospital: Path) -> str:
    return str(json.loads((hospital / "east.request.json").read_text())["public_key"])


def test_a_request_proves_that_its_maker_has_the_private_key(hospital: Path) -> None:
    record = json.loads((hospital / "east.request.json").read_text())
    assert set(record) == {"site", "public_key", "proof"}
    assert record["site"] == "east"
    public = serialization.load_ssh_public_key(record["public_key"].encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    proof = base64.b64decode(record.pop("proof"))
    text = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    public.verify(proof, text, ec.ECDSA(hashes.SHA384()))
    private = serialization.load_ssh_private_key((hospital / "site.key").read_bytes(), None)
    assert private.public_key() == public
    assert b"PRIVATE" not in (hospital / "east.request.json").read_bytes()
    assert stat.S_IMODE((hospital / "site.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(hospital.stat().st_mode) == 0o700


def test_no_private_key_of_such_a_site_is_anywhere_and_its_kit_opens_with_the_sites_own(
    asked: Office, hospital: Path
) -> None:
    before = asked.files()
    asked.provision(now=LATER)
    after = asked.files()
    assert not any(b"PRIVATE KEY" in data for path, data in after.items() if path.startswith("sites/east/"))
    assert all(before[path] == after[path] for path in before if path != "server/server.json")
    with pytest.raises(InputError, match=r"put the key there that this site made"):
        open_site_kit(asked.site("east"), LATER)
    shutil.copy(hospital / "site.key", asked.site("east"))
    kit = open_site_kit(asked.site("east"), LATER)
    assert kit.public_key == public_of(hospital) == open_server_kit(asked.server, LATER).sites["east"]
    assert "put the `site.key`" in (asked.site("east") / "README.md").read_text()


def test_a_second_key_is_not_made_over_the_first(hospital: Path) -> None:
    before = {path.name: path.read_bytes() for path in hospital.iterdir()}
    for name in ("east", "west"):
        with pytest.raises(InputError, match=r"site\.key: is there already; send the request made with it"):
            make_request(name, hospital)
    assert {path.name: path.read_bytes() for path in hospital.iterdir()} == before


@pytest.mark.parametrize("name", ["", "../east", "a b", ".east", "server", "Server", "e" * 65, "east\n"])
def test_an_unsafe_name_gets_no_key(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--request: must be"):
        make_request(name, tmp_path / "hospital")
    assert not (tmp_path / "hospital").exists()


def rewritten(path: Path, **changed: Any) -> None:
    write_record(path, {**json.loads(path.read_text()), **changed})


def another_key(path: Path) -> None:
    rewritten(path, public_key=public_ssh(new_key().public_key()))


def small_key(path: Path) -> None:
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    rewritten(path, public_key=ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*form).decode())


def of_another_site(path: Path) -> None:
    key = new_key()
    write_record(path, signed({"site": "west", "public_key": public_ssh(key.public_key())}, key, "proof"))


def of_the_records_signature(path: Path) -> None:
    """A signature under another name is no proof."""
    key = new_key()
    write_record(path, {**signed({"site": "east", "public_key": public_ssh(key.public_key())}, key), "proof": ""})


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "another site's name put in": (
        lambda path: rewritten(path, site="west"),
        "was edited, or was not made by the owner",
    ),
    "another key put in": (another_key, "was edited, or was not made by the owner of its key"),
    "no proof": (lambda path: rewritten(path, proof=""), "was edited, or was not made by the owner of its key"),
    "another site's request": (of_another_site, "is the request of 'west', not of 'east'"),
    "a key of another curve": (small_key, "the public key is no EC P-384 key"),
    "no key": (lambda path: rewritten(path, public_key="ssh-x AAAA"), "the public key is not one in OpenSSH's format"),
    "a signature that is no proof": (of_the_records_signature, "key 'signature' does not belong there"),
    "a key too many": (lambda path: rewritten(path, more=1), "key 'more' does not belong there"),
    "no JSON": (lambda path: path.write_text("-----BEGIN"), "not valid JSON"),
    "a private key by mistake": (lambda path: path.write_text('["key"]'), "not a record"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_request_is_refused_and_nothing_changes(asked: Office, bad: str) -> None:
    spoil, words = BAD[bad]
    path = asked.folder / "east.request.json"
    spoil(path)
    before = asked.files()
    with pytest.raises(InputError) as caught:
        asked.provision(now=LATER)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert words in line
    assert "\n" not in line
    assert asked.files() == before


def test_every_byte_of_a_request_counts(hospital: Path) -> None:
    path = hospital / "east.request.json"
    whole = path.read_bytes()
    assert read_request(path, "east") == public_of(hospital)
    for at, byte in enumerate(whole):
        path.write_bytes(whole[:at] + bytes([byte ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError):
            read_request(path, "east")


def test_a_key_that_is_used_already_or_was_revoked_is_refused_under_any_name(asked: Office, hospital: Path) -> None:
    asked.provision(now=LATER)
    own = serialization.load_ssh_private_key((hospital / "site.key").read_bytes(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    record = {"site": "west", "public_key": public_of(hospital)}
    write_record(asked.folder / "west.request.json", signed(record, own, "proof"))
    asked.write(sites=[*SITES, {"name": "west", "request": "west.request.json"}])
    before = asked.files()
    with pytest.raises(InputError, match=r"west\.request\.json: has the same key as east"):
        asked.provision(now=LATER)
    with pytest.raises(InputError, match=r"west\.request\.json: has a key of east, which is revoked"):
        asked.provision(now=LATER, revoke="east")
    assert asked.files() == before
    asked.write(sites=SITES)
    asked.provision(now=LATER, revoke="east")
    asked.write(sites=[*SITES, {"name": "west", "request": "west.request.json"}])
    with pytest.raises(InputError, match=r"has a key of east, which is revoked"):
        asked.provision(now=LATER)


def test_another_request_for_a_site_that_has_a_kit_changes_its_key_only_when_told_to(
    asked: Office, hospital: Path, tmp_path: Path
) -> None:
    asked.provision(now=LATER)
    old = public_of(hospital)
    with pytest.raises(InputError, match=r"has the key that east uses now; have east make a new request"):
        asked.provision(now=LATER, renew="east", new_key=True)
    make_request("east", tmp_path / "again")
    shutil.copy(tmp_path / "again" / "east.request.json", asked.folder)
    before = asked.files()
    for options in ({}, {"renew": "east"}):
        with pytest.raises(InputError, match=r"has another key than the kit of east; .* --renew east --new-key$"):
            asked.provision(now=LATER, **options)
    assert asked.files() == before
    asked.provision(now=LATER, renew="east", new_key=True)
    server = open_server_kit(asked.server, LATER)
    assert server.sites["east"] == public_of(tmp_path / "again") != old
    assert server.revoked == (key_fingerprint(old),)
    shutil.copy(hospital / "east.request.json", asked.folder)  # the old key again
    with pytest.raises(InputError, match=r"has a key that was replaced"):
        asked.provision(now=LATER, renew="east", new_key=True)


def test_a_site_that_changes_to_its_own_key_leaves_no_private_key_with_the_coordinator(
    office: Office, tmp_path: Path
) -> None:
    make_request("north", office.folder / "hospital")
    office.write(sites=[{"name": "north", "request": "hospital/north.request.json"}, {"name": "south"}])
    office.provision(now=LATER, renew="north", new_key=True)
    assert not (office.site("north") / "site.key").exists()
    shutil.copy(office.folder / "hospital" / "site.key", office.site("north"))
    assert open_site_kit(office.site("north"), LATER).site == "north"
