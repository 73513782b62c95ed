"""Kits where they are used: what is refused, and with which line."""

import base64
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from consortium_office import NOW, Office
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.provisioning.keys import new_key
from adamss_fl.provisioning.kits import check_remembered, open_server_kit, open_site_kit, remember
from adamss_fl.provisioning.signing import is_signed, signed

LATER = NOW + timedelta(days=10)


def refusal(open_kit: Callable[..., object], folder: Path, now: datetime = LATER) -> str:
    with pytest.raises(InputError) as caught:
        open_kit(folder, now)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_site_kit_says_who_the_site_is_and_where_the_server_is(made: Office) -> None:
    kit = open_site_kit(made.site("north"), LATER)
    certificate = x509.load_pem_x509_certificate((made.out / "ca" / "ca.crt").read_bytes())
    assert (kit.consortium, kit.site) == ("head-and-neck", "north")
    assert (kit.server_host, kit.server_port) == ("fl.example.org", 8443)
    assert kit.consortium_id == certificate.fingerprint(hashes.SHA256()).hex()
    assert datetime.fromisoformat(kit.expires) == NOW + timedelta(days=100)
    private = serialization.load_ssh_private_key(kit.key_file.read_bytes(), None)
    assert private.public_key() == serialization.load_ssh_public_key(kit.public_key.encode())
    assert kit.ca_file.read_bytes() == (made.out / "ca" / "ca.crt").read_bytes()
    assert kit.key_file.is_absolute()
    assert kit.ca_file.is_absolute()


def test_the_server_kit_registers_every_sites_key(made: Office) -> None:
    kit = open_server_kit(made.server, LATER)
    assert kit.names == ("fl.example.org",)
    assert kit.addresses == ("192.0.2.7",)
    assert kit.port == 8443
    assert dict(kit.sites) == {name: open_site_kit(made.site(name), LATER).public_key for name in ("north", "south")}
    assert kit.revoked == ()


@pytest.mark.parametrize(("kind", "record"), [("sites/north", "kit.json"), ("server", "server.json")])
def test_the_signature_is_ecdsa_by_the_authority_over_canonical_json(made: Office, kind: str, record: str) -> None:
    content = json.loads((made.out / kind / record).read_text())
    signature = base64.b64decode(content.pop("signature"))
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    key = x509.load_pem_x509_certificate((made.out / "ca" / "ca.crt").read_bytes()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(signature, text, ec.ECDSA(hashes.SHA384()))


@pytest.fixture(scope="module")
def spoilt(made: Office, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Spoilt by one byte and mended again, many times; in the end nothing must be wrong with it."""
    folder = tmp_path_factory.mktemp("spoilt") / "out"
    shutil.copytree(made.out, folder)
    yield folder
    open_site_kit(folder / "sites/north", LATER)
    open_server_kit(folder / "server", LATER)


SITE_FILES = ("kit.json", "ca.crt", "site.pub", "start.sh", "README.md")
SERVER_FILES = ("server.json", "ca.crt", "server.crt", "start.sh", "README.md")


def change_one_byte(data: st.DataObject, path: Path) -> bytes:
    """Change, take away or put in one byte of a file; returns what it was before."""
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1), label="at")
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != before[at]), label="byte")
    new = data.draw(st.sampled_from([bytes([byte]), b"", bytes([before[at], byte])]), label="new")
    path.write_bytes(before[:at] + new + before[at + 1 :])
    return before


@pytest.mark.parametrize(
    ("kind", "files", "open_kit"),
    [("sites/north", SITE_FILES, open_site_kit), ("server", SERVER_FILES, open_server_kit)],
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_one_byte_changed_is_refused(
    data: st.DataObject, spoilt: Path, kind: str, files: tuple[str, ...], open_kit: Callable[..., object]
) -> None:
    path = spoilt / kind / data.draw(st.sampled_from(files), label="file")
    before = change_one_byte(data, path)
    try:
        with pytest.raises(InputError):
            open_kit(spoilt / kind, LATER)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("record", ["kit.json", "server.json"])
def test_the_same_record_written_in_another_way_is_refused(office: Office, record: str) -> None:
    folder, opened = (
        (office.server, open_server_kit) if record == "server.json" else (office.site("north"), open_site_kit)
    )
    path = folder / record
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, sort_keys=True))
    assert f"{path}: was edited" in refusal(opened, folder)


def test_a_signature_counts_in_one_spelling_of_base64_only() -> None:
    key = new_key()
    texts = (signed({"n": n}, key) for n in itertools.count())
    record = next(record for record in texts if record["signature"].endswith("="))
    assert is_signed(record, key.public_key())
    text = record["signature"].rstrip("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spelt = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    spelt += "=" * (len(record["signature"]) - len(text))
    assert base64.b64decode(spelt, validate=True) == base64.b64decode(record["signature"])
    assert not is_signed({**record, "signature": spelt}, key.public_key())


def test_signing_the_same_twice_gives_the_same_signature() -> None:
    key = new_key()
    assert signed({"a": 1, "b": [2]}, key) == signed({"b": [2], "a": 1}, key)


def test_every_hashed_file_is_in_the_record(made: Office) -> None:
    """Else the test above would pass for a file that nobody looks at only by chance."""
    assert set(json.loads((made.site("north") / "kit.json").read_text())["files"]) == set(SITE_FILES) - {"kit.json"}
    assert set(json.loads((made.server / "server.json").read_text())["files"]) == set(SERVER_FILES) - {"server.json"}


def test_what_is_the_hospitals_own_may_be_edited(office: Office) -> None:
    for file in ("site.yaml", "adamss-fl-site.service", "state/policy.yaml"):
        path = office.site("north") / file
        path.write_text(path.read_text() + "# ours\n")
    assert open_site_kit(office.site("north"), LATER).site == "north"


@pytest.mark.parametrize("file", ["ca.crt", "site.pub", "start.sh", "README.md", "site.key"])
def test_a_missing_file_is_named(office: Office, file: str) -> None:
    path = office.site("north") / file
    path.unlink()
    line = refusal(open_site_kit, office.site("north"))
    assert str(path) in line
    assert "missing" in line


def test_a_kit_with_another_sites_key_is_refused(office: Office) -> None:
    shutil.copy(office.site("south") / "site.key", office.site("north") / "site.key")
    assert "is not the key that this kit of site north was made for" in refusal(open_site_kit, office.site("north"))


def test_a_server_kit_with_another_key_is_refused(office: Office, other: Office) -> None:
    shutil.copy(other.server / "server.key", office.server / "server.key")
    assert "is not the key of server.crt" in refusal(open_server_kit, office.server)


def test_a_kit_with_the_record_of_another_site_is_refused(office: Office) -> None:
    for file in ("kit.json", "site.pub", "README.md"):
        shutil.copy(office.site("south") / file, office.site("north") / file)
    assert "is not the key that this kit of site south was made for" in refusal(open_site_kit, office.site("north"))


def test_another_consortiums_certificate_in_a_kit_is_refused(office: Office, other: Office) -> None:
    shutil.copy(other.out / "ca" / "ca.crt", office.site("north") / "ca.crt")
    assert "is of another consortium than ca.crt" in refusal(open_site_kit, office.site("north"))


def test_a_record_signed_by_another_consortium_is_refused_though_it_names_this_one(
    office: Office, other: Office
) -> None:
    path = office.site("north") / "kit.json"
    record = json.loads(path.read_text())
    record["server"]["host"] = "evil.example.org"
    del record["signature"]
    key = serialization.load_pem_private_key((other.out / "ca" / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    text = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    record["signature"] = base64.b64encode(key.sign(text, ec.ECDSA(hashes.SHA384()))).decode()
    path.write_text(json.dumps(record, sort_keys=True, indent=2) + "\n")
    assert "was not signed by its consortium" in refusal(open_site_kit, office.site("north"))


@pytest.mark.parametrize("kind", ["site", "server"])
def test_a_kit_is_good_from_its_first_second_to_its_last(made: Office, kind: str) -> None:
    folder = made.server if kind == "server" else made.site("north")
    opened: Callable[..., object] = open_server_kit if kind == "server" else open_site_kit
    second = timedelta(seconds=1)
    ends = NOW + timedelta(days=100)
    opened(folder, NOW)
    opened(folder, ends - second)
    line = refusal(opened, folder, NOW - second)
    assert "is not valid before 2026-03-01 12:00 UTC" in line
    assert "this machine's clock says 2026-03-01 11:59 UTC; set the clock" in line
    assert "expired on 2026-06-09 12:00 UTC" in refusal(opened, folder, ends)


def test_the_clock_of_the_machine_is_the_default(made: Office, tmp_path: Path) -> None:
    fresh = Office(tmp_path)
    fresh.write()
    fresh.provision(now=datetime.now(UTC))
    assert open_site_kit(fresh.site("north")).site == "north"
    fresh.provision(now=datetime.now(UTC) + timedelta(days=1), renew="north")
    assert "set the clock" in refusal(lambda folder, now: open_site_kit(folder), fresh.site("north"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
@pytest.mark.parametrize(("kind", "file"), [("sites/north", "site.key"), ("server", "server.key")])
def test_a_private_key_that_others_may_touch_is_refused(office: Office, kind: str, file: str, mode: int) -> None:
    path = office.out / kind / file
    path.chmod(mode)
    opened: Callable[..., object] = open_server_kit if kind == "server" else open_site_kit
    line = refusal(opened, office.out / kind)
    assert f"run: chmod 600 '{path}'" in line
    path.chmod(0o600)
    opened(office.out / kind, LATER)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", b"\xff\x00"])
def test_what_is_no_private_key_is_refused(office: Office, content: bytes) -> None:
    path = office.site("north") / "site.key"
    path.write_bytes(content)
    assert f"{path}: is no private key" in refusal(open_site_kit, office.site("north"))


def test_a_key_of_another_curve_is_refused(office: Office) -> None:
    path = office.site("north") / "site.key"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    path.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*form))
    assert "is no EC P-384 key" in refusal(open_site_kit, office.site("north"))


def test_a_folder_that_is_no_kit_or_the_other_kind_is_told(made: Office, tmp_path: Path) -> None:
    assert "is no kit (kit.json is missing)" in refusal(open_site_kit, tmp_path)
    assert "is no kit (server.json is missing)" in refusal(open_server_kit, tmp_path / "none")
    assert "it is for: adamss-fl server start" in refusal(open_site_kit, made.server)
    assert "it is for: adamss-fl site start" in refusal(open_server_kit, made.site("north"))


def test_a_server_record_in_place_of_a_sites_is_refused(office: Office) -> None:
    shutil.copy(office.server / "server.json", office.site("north") / "kit.json")
    assert "kit.json: is damaged or was edited" in refusal(open_site_kit, office.site("north"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "nul", "[" * 100_000, '{"serial": NaN}', '"\\ud800"', "1" * 5000, "\x00"]
)
def test_a_record_that_is_no_record_is_refused_in_one_line(office: Office, content: str) -> None:
    path = office.site("north") / "kit.json"
    path.write_text(content)
    assert str(path) in refusal(open_site_kit, office.site("north"))


# --- what a state folder remembers -----------------------------------------------------------------------------------


def test_a_state_folder_remembers_the_first_kit_and_takes_it_again(made: Office, tmp_path: Path) -> None:
    kit, state = open_site_kit(made.site("north"), LATER), tmp_path / "state"
    check_remembered(kit, state)  # nothing remembered: free
    assert not state.exists()
    remember(kit, state)
    known = json.loads((state / "kit.json").read_text())
    public = serialization.load_ssh_public_key(kit.public_key.encode())
    assert (known["consortium_id"], known["site"]) == (kit.consortium_id, "north")
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.public_bytes(*form))
    assert known["key"] == digest.finalize().hex()
    assert os.stat(state / "kit.json").st_mode & 0o777 == 0o600
    before = (state / "kit.json").read_bytes()
    remember(kit, state)
    check_remembered(kit, state)
    assert (state / "kit.json").read_bytes() == before


@pytest.mark.parametrize("act", [remember, check_remembered])
def test_a_kit_on_the_wrong_site_or_of_another_consortium_is_refused(
    made: Office, other: Office, tmp_path: Path, act: Callable[..., None]
) -> None:
    remember(open_site_kit(made.site("north"), LATER), tmp_path)
    before = (tmp_path / "kit.json").read_bytes()
    with pytest.raises(
        InputError, match=r"is the kit of another site \(south\) than .* \(north\); use the kit of north"
    ):
        act(open_site_kit(made.site("south"), LATER), tmp_path)
    with pytest.raises(InputError, match=r"is a kit of another consortium \(head-and-neck [0-9a-f]{12}\)"):
        act(open_site_kit(other.site("north"), LATER), tmp_path)
    assert (tmp_path / "kit.json").read_bytes() == before


def test_a_renewed_kit_is_taken_and_the_one_with_the_replaced_key_no_longer(office: Office, tmp_path: Path) -> None:
    state = tmp_path / "state"
    old = open_site_kit(office.site("north"), LATER)
    remember(old, state)
    office.provision(now=LATER, renew="north")
    remember(open_site_kit(office.site("north"), LATER), state)
    check_remembered(old, state)  # the same key still
    office.provision(now=LATER, renew="north", new_key=True)
    new = open_site_kit(office.site("north"), LATER)
    check_remembered(new, state)
    remember(new, state)
    with pytest.raises(InputError, match=r"has a key of north that a newer kit, used here since, has replaced"):
        check_remembered(old, state)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_memory_that_cannot_be_read_lets_no_kit_in(made: Office, tmp_path: Path, content: str) -> None:
    (tmp_path / "kit.json").write_text(content)
    with pytest.raises(InputError, match=r"kit\.json: .*; restore it"):
        remember(open_site_kit(made.site("north"), LATER), tmp_path)
    assert (tmp_path / "kit.json").read_text() == content


def test_the_kits_own_folder_is_no_state_folder(office: Office) -> None:
    before = office.files()
    with pytest.raises(InputError, match=r"is the kit's own folder; give a folder below it as 'state'"):
        remember(open_site_kit(office.site("north"), LATER), office.site("north"))
    assert office.files() == before
