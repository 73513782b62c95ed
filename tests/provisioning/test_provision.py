"""A consortium's folder: what is in it, what is refused, and what a change leaves alone."""

import dataclasses
import json
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically
from adamss_fl.provisioning.kits import open_server_kit, open_site_kit, remember
from adamss_fl.provisioning.provision import provision, request
from adamss_fl.provisioning.settings import Consortium, SiteEntry, read_consortium

CONSORTIUM = Consortium("tests", ("fl.example.org",), ("10.0.0.7",), 8000, 30, (SiteEntry("north"), SiteEntry("south")))
LATER = datetime.now(UTC) + timedelta(days=400)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def with_sites(*sites: SiteEntry | str) -> Consortium:
    entries = tuple(SiteEntry(site) if isinstance(site, str) else site for site in sites)
    return dataclasses.replace(CONSORTIUM, sites=entries)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    provision(CONSORTIUM, tmp_path / "fed")
    return tmp_path / "fed"


# --- what is in it ------------------------------------------------------------------------------------------------


def test_kits_open_and_say_who_they_are_for(out: Path) -> None:
    site, server = open_site_kit(out / "sites/north"), open_server_kit(out / "server")
    assert (site.site, site.consortium, site.server_host, site.server_port) == (
        "north",
        "tests",
        "fl.example.org",
        8000,
    )
    assert site.consortium_id == server.consortium_id
    assert set(server.sites) == {"north", "south"}
    assert server.sites["north"] == site.public_key
    assert server.revoked == ()


def test_flower_reads_the_keys(out: Path) -> None:
    for name in ("north", "south"):
        kit = out / "sites" / name
        private = serialization.load_ssh_private_key((kit / "site.key").read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        public = bytes_to_public_key(try_load_public_key(kit / "site.pub"))
        assert public == private.public_key()


def test_only_the_owner_reads_private_files_and_no_kit_holds_anothers_key(out: Path) -> None:
    for path in [*out.glob("server/**/*"), *out.glob("sites/*/**/*"), out / "ca/ca.key"]:
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.suffix == ".sh" else 0o600), path
    keys = {path: path.read_bytes().strip() for path in out.rglob("*.key")}
    assert len(keys) == 4
    for kit in (out / "server", out / "sites/north", out / "sites/south"):
        held = b"\n".join(everything(kit).values())
        for path, key in keys.items():
            assert (key in held) == path.is_relative_to(kit)


def test_the_authority_may_sign_no_other_and_the_server_is_no_authority(out: Path) -> None:
    authority = x509.load_pem_x509_certificate((out / "ca/ca.crt").read_bytes())
    server = x509.load_pem_x509_certificate((out / "server/server.crt").read_bytes())
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints).value for c in (authority, server)]
    assert (constraints[0].ca, constraints[0].path_length) == (True, 0)
    assert not constraints[1].ca
    server.verify_directly_issued_by(authority)


def handshake(server: Path, ca: Path, name: str) -> None:
    """One TLS handshake on loopback by Python's own ssl; raises what the client raises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / "server.crt", server / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    connection.recv(1)
            except (ssl.SSLError, OSError):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            client = ssl.create_default_context(cafile=str(ca))
            with socket.create_connection(listener.getsockname()) as raw, client.wrap_socket(raw, server_hostname=name):
                pass
        finally:
            thread.join(10)


@pytest.mark.parametrize("name", ["fl.example.org", "10.0.0.7", "127.0.0.1", "localhost"])
def test_the_server_is_believed_under_its_own_names(out: Path, name: str) -> None:
    handshake(out / "server", out / "sites/north/ca.crt", name)


def test_the_server_is_not_believed_under_another_name_by_another_consortium_or_when_expired(
    out: Path, tmp_path: Path
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        handshake(out / "server", out / "ca/ca.crt", "evil.example.org")
    provision(CONSORTIUM, tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(out / "server", tmp_path / "other/ca/ca.crt", "localhost")
    provision(CONSORTIUM, tmp_path / "old", now=datetime.now(UTC) - timedelta(days=60))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(tmp_path / "old/server", tmp_path / "old/ca/ca.crt", "localhost")


# --- what is refused ----------------------------------------------------------------------------------------------


def other_ca(out: Path, other: Path) -> None:
    write_atomically(out / "sites/north/ca.crt", (other / "ca/ca.crt").read_bytes())


def other_key(out: Path, other: Path) -> None:
    write_atomically(out / "sites/north/site.key", (out / "sites/south/site.key").read_bytes(), private=True)


def other_kit(out: Path, other: Path) -> None:
    write_atomically(out / "sites/north/kit.json", (other / "sites/north/kit.json").read_bytes(), private=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_ca, "belongs to another consortium"),
        (other_key, r"is not the key that this kit was made for \(site north\)"),
        (other_kit, "belongs to another consortium"),
        (lambda out, _: (out / "sites/north/site.key").unlink(), "the private key is missing"),
        (lambda out, _: (out / "sites/north/site.key").chmod(0o644), "others may read the private key"),
        (lambda out, _: (out / "sites/north/site.key").write_text("x"), "is no private key"),
        (lambda out, _: (out / "sites/north/start.sh").write_text("rm -rf /"), r"start\.sh: was edited"),
        (lambda out, _: (out / "sites/north/start.sh").unlink(), r"start\.sh: is missing"),
        (lambda out, _: (out / "sites/north/kit.json").unlink(), "is no kit"),
        (lambda out, _: (out / "sites/north/kit.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_site_kit_that_is_not_its_own_whole_self_is_refused(
    out: Path, tmp_path: Path, change: Callable[[Path, Path], object], reason: str
) -> None:
    provision(CONSORTIUM, tmp_path / "other")
    change(out, tmp_path / "other")
    with pytest.raises(InputError, match=reason):
        open_site_kit(out / "sites/north")


@pytest.mark.parametrize(
    ("when", "reason"),
    [(timedelta(days=31), "expired on"), (timedelta(days=-1), "this machine's clock says")],
)
def test_a_kit_has_its_time(out: Path, when: timedelta, reason: str) -> None:
    for opened, kit in ((open_site_kit, "sites/north"), (open_server_kit, "server")):
        with pytest.raises(InputError, match=reason):
            opened(out / kit, datetime.now(UTC) + when)  # type: ignore[operator]


@settings(max_examples=60)
@given(data=st.data())
def test_any_changed_byte_of_a_record_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Or changes nothing that is said: JSON allows other spaces between its words."""
    folder = tmp_path_factory.getbasetemp() / "bytes"
    if not folder.exists():
        provision(CONSORTIUM, folder)
    for opened, path in (
        (open_site_kit, folder / "sites/north/kit.json"),
        (open_server_kit, folder / "server/server.json"),
    ):
        whole = path.read_bytes()
        place = data.draw(st.integers(0, len(whole) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda value, at=place, text=whole: value != text[at]))
        try:
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                same = json.loads(path.read_bytes()) == json.loads(whole)
            except ValueError:
                same = False
            if same:
                opened(path.parent)
            else:
                with pytest.raises(InputError):
                    opened(path.parent)
        finally:
            path.write_bytes(whole)


def test_a_state_folder_remembers_whose_it_is(out: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    remember(open_site_kit(out / "sites/north"), state)
    remember(open_site_kit(out / "sites/north"), state)
    with pytest.raises(InputError, match=r"another site \(south\).*\(north\)"):
        remember(open_site_kit(out / "sites/south"), state)
    provision(CONSORTIUM, tmp_path / "other")
    with pytest.raises(InputError, match="another consortium"):
        remember(open_site_kit(tmp_path / "other/sites/north"), state)
    provision(CONSORTIUM, out, renew="north")
    remember(open_site_kit(out / "sites/north"), state)
    provision(CONSORTIUM, out, renew="north", new_key=True)
    with pytest.raises(InputError, match="another key"):
        remember(open_site_kit(out / "sites/north"), state)


# --- what a change leaves alone -----------------------------------------------------------------------------------


def test_adding_a_site_touches_no_kit_that_is_out(out: Path) -> None:
    before = everything(out / "sites")
    provision(with_sites("north", "south", "west"), out)
    after = everything(out / "sites")
    assert {name: data for name, data in after.items() if not name.startswith("west/")} == before
    assert set(open_server_kit(out / "server").sites) == {"north", "south", "west"}
    assert open_site_kit(out / "sites/west").site == "west"


def test_a_renewed_kit_has_new_dates_the_same_key_and_the_hospitals_own_files(out: Path) -> None:
    before = open_site_kit(out / "sites/north")
    for name in ("site.yaml", "state/policy.yaml"):
        (out / "sites/north" / name).write_text("edited: true\n")
    untouched = everything(out / "sites/south")
    provision(CONSORTIUM, out, renew="north", now=LATER)
    after = open_site_kit(out / "sites/north", LATER)
    assert after.expires > before.expires
    assert after.public_key == before.public_key
    assert (out / "sites/north/site.yaml").read_text() == "edited: true\n"
    assert (out / "sites/north/state/policy.yaml").read_text() == "edited: true\n"
    assert everything(out / "sites/south") == untouched
    provision(CONSORTIUM, out, renew="north", new_key=True)
    assert open_site_kit(out / "sites/north").public_key != before.public_key
    assert open_server_kit(out / "server").sites["north"] == open_site_kit(out / "sites/north").public_key


def test_a_renewed_server_has_new_dates_and_the_same_key(out: Path) -> None:
    key, expires = (out / "server/server.key").read_bytes(), open_server_kit(out / "server").expires
    provision(CONSORTIUM, out, renew="server", now=LATER)
    assert open_server_kit(out / "server", LATER).expires > expires
    assert (out / "server/server.key").read_bytes() == key


def test_a_revoked_site_never_comes_back(out: Path) -> None:
    for _ in range(2):
        provision(CONSORTIUM, out, revoke="south")
    for consortium in (CONSORTIUM, with_sites("north")):
        provision(consortium, out)
        server = open_server_kit(out / "server")
        assert set(server.sites) == {"north"}
        assert server.revoked == ("south",)
    with pytest.raises(InputError, match="or it is revoked"):
        provision(CONSORTIUM, out, renew="south")


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda out: provision(CONSORTIUM, out, revoke="east"), "there is no such site; there are: north, south"),
        (lambda out: provision(CONSORTIUM, out, renew="east"), "there is no such site"),
        (
            lambda out: provision(with_sites("north"), out),
            r"south: has a kit and is not in the .* file.*--revoke",
        ),
        (lambda out: provision(dataclasses.replace(CONSORTIUM, name="others"), out), "is the folder of the consortium"),
        (lambda out: provision(CONSORTIUM, out.parent), "is not empty and holds no authority"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    out: Path, act: Callable[[Path], object], reason: str
) -> None:
    before = everything(out)
    with pytest.raises(InputError, match=reason):
        act(out)
    assert everything(out) == before


def test_an_edited_list_of_revoked_sites_is_refused(out: Path) -> None:
    provision(CONSORTIUM, out, revoke="south")
    path = out / "revoked.json"
    path.write_text(path.read_text().replace("south", "north"))
    with pytest.raises(InputError, match=r"revoked\.json: was edited"):
        provision(CONSORTIUM, out)


# --- a site that makes its own key --------------------------------------------------------------------------------


def test_a_sites_own_key_never_travels(tmp_path: Path) -> None:
    path = request("west", tmp_path / "hospital")
    key = tmp_path / "hospital/site.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes().strip() not in path.read_bytes()
    provision(with_sites(SiteEntry("west", path)), tmp_path / "fed")
    kit = tmp_path / "fed/sites/west"
    assert not (kit / "site.key").exists()
    with pytest.raises(InputError, match="the private key is missing"):
        open_site_kit(kit)
    write_atomically(kit / "site.key", key.read_bytes(), private=True)
    assert open_site_kit(kit).site == "west"
    with pytest.raises(InputError, match="there already is a key"):
        request("west", tmp_path / "hospital")


@pytest.mark.parametrize("what", ["edited", "another site", "missing", "no request"])
def test_a_request_that_is_not_the_sites_own_is_refused(tmp_path: Path, what: str) -> None:
    path = request("west", tmp_path / "hospital")
    if what == "edited":
        stranger = json.loads(request("west", tmp_path / "stranger").read_text())
        path.write_text(json.dumps({**json.loads(path.read_text()), "public_key": stranger["public_key"]}))
    elif what == "missing":
        path.unlink()
    elif what == "no request":
        path.write_text("[]")
    name = "east" if what == "another site" else "west"
    with pytest.raises(InputError, match=r"west\.request\.json"):
        provision(with_sites(SiteEntry(name, path)), tmp_path / "fed")


# --- the consortium file ------------------------------------------------------------------------------------------


def test_the_example_reads() -> None:
    found = read_consortium(Path(__file__).parents[2] / "configs/consortium.yaml")
    assert found.host == "localhost"
    assert [site.name for site in found.sites] == ["hospital-1", "hospital-2", "hospital-3"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: a\nserver: {names: [x]}\nsites: [{name: n}]\nsites_: 1\n", r":4: sites_: unknown key"),
        ("name: a/b\nserver: {names: [x]}\nsites: [{name: n}]\n", r":1: name: must be letters"),
        ("name: a\nserver: {}\nsites: [{name: n}]\n", r":2: server: give a name or an address"),
        ("name: a\nserver: {names: ['-x']}\nsites: [{name: n}]\n", r":2: server\.names\[0\]: .* is no DNS name"),
        ("name: a\nserver: {addresses: [1.2.3]}\nsites: [{name: n}]\n", "is no IP address"),
        ("name: a\nserver: {names: [x], port: 0}\nsites: [{name: n}]\n", "between 1 and 65535"),
        ("name: a\nserver: {names: [x]}\nvalid_days: 0\nsites: [{name: n}]\n", r":3: valid_days: must be"),
        ("name: a\nserver: {names: [x]}\nsites: []\n", r":3: sites: must be a list of sites"),
        ("name: a\nserver: {names: [x]}\nsites: [{name: ../n}]\n", r":3: sites\[0\]\.name: must be letters"),
        ("name: a\nserver: {names: [x]}\nsites:\n- name: n\n- name: n\n", r":5: sites\[1\]\.name: 'n' is there twice"),
        ("name: a\nserver: {names: [x]}\nsites: [{name: n, key: k}]\n", "unknown key 'key'"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "consortium.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"consortium\.yaml.*{reason}"):
        read_consortium(path)
