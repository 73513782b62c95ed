"""Making a consortium's folder and changing it later: what changes, what does not, and what is refused untouched."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from consortium_office import NOW, SETTINGS, Office

from adamss_fl.errors import InputError
from adamss_fl.provisioning import provision as room
from adamss_fl.provisioning.keys import key_fingerprint
from adamss_fl.provisioning.kits import open_server_kit, open_site_kit
from adamss_fl.provisioning.settings import read_consortium

LATER = NOW + timedelta(days=10)
THREE = [{"name": "north"}, {"name": "south"}, {"name": "east"}]


def refusal(office: Office, now: datetime = LATER, **options: Any) -> str:
    """The line with which a call is refused, which must change nothing."""
    before = office.files()
    with pytest.raises(InputError) as caught:
        office.provision(now=now, **options)
    assert office.files() == before
    line = str(caught.value)
    assert "\n" not in line
    return line


def key_of(office: Office, site: str) -> str:
    return (office.site(site) / "site.pub").read_text().strip()


# --- the first time --------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_the_contract_says_and_no_kit_holds_anothers_key(made: Office) -> None:
    site = {
        "kit.json",
        "ca.crt",
        "site.key",
        "site.pub",
        "site.yaml",
        "start.sh",
        "adamss-fl-site.service",
        "README.md",
    }
    server = {"server.json", "ca.crt", "server.crt", "server.key", "start.sh", "adamss-fl-server.service", "README.md"}
    expected = {"ca/ca.crt", "ca/ca.key", "revoked.json", ".lock", *(f"server/{file}" for file in server)}
    for name in ("north", "south"):
        expected |= {f"sites/{name}/{file}" for file in {*site, "state/policy.yaml"}}
    files = made.files()
    assert set(files) == expected
    secrets = {path: data for path, data in files.items() if b"PRIVATE KEY" in data}
    assert set(secrets) == {"ca/ca.key", "server/server.key", "sites/north/site.key", "sites/south/site.key"}
    assert len(set(secrets.values())) == 4


def test_only_the_owner_may_read_anything(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write()
    before = os.umask(0)  # the most open there is
    try:
        office.provision()
        office.provision(now=LATER, renew="north")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (office.out, *office.out.rglob("*"))}
    wrong = {
        str(path): oct(mode)
        for path, mode in modes.items()
        if mode != (0o700 if path.is_dir() or path.name == "start.sh" else 0o600)
    }
    assert wrong == {}


def test_a_kit_depends_neither_on_the_folder_it_was_made_in_nor_on_its_neighbours(made: Office) -> None:
    for path, data in made.files().items():
        assert str(made.folder).encode() not in data, path
        assert not (path.startswith("sites/north/") and b"south" in data), path


def test_the_kits_are_told_by_name(made: Office, tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write()
    assert office.provision() == {
        "server": office.server,
        "north": office.site("north"),
        "south": office.site("south"),
    }


def test_no_two_consortia_share_a_key_or_an_identity(made: Office, other: Office) -> None:
    ours, theirs = open_server_kit(made.server, NOW), open_server_kit(other.server, NOW)
    assert ours.consortium == theirs.consortium
    assert ours.consortium_id != theirs.consortium_id
    assert not set(ours.sites.values()) & set(theirs.sites.values())


def test_a_kit_lives_no_longer_than_the_authority(office: Office) -> None:
    almost = NOW + timedelta(days=7300 - 5)
    office.provision(now=almost, renew="north")
    assert datetime.fromisoformat(open_site_kit(office.site("north"), almost).expires) == NOW + timedelta(days=7300)
    assert "expired" in refusal(office, now=NOW + timedelta(days=7300))
    assert "set this machine's clock" in refusal(office, now=NOW - timedelta(days=1))


# --- again -----------------------------------------------------------------------------------------------------------


def test_again_changes_nothing_but_the_servers_record(office: Office) -> None:
    before = office.files()
    office.provision(now=LATER)
    after = office.files()
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == {
        "server/server.json"
    }
    assert json.loads(after["server/server.json"])["issued"] == LATER.isoformat()


def test_a_site_that_is_added_gets_a_kit_and_nobody_else_is_touched(office: Office) -> None:
    before = office.files()
    office.write(sites=THREE)
    assert office.provision(now=LATER)["east"] == office.site("east")
    after = office.files()
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"server/server.json"}
    assert {path.split("/")[1] for path in after.keys() - before.keys()} == {"east"}
    server = open_server_kit(office.server, LATER)
    assert dict(server.sites) == {name: key_of(office, name) for name in ("east", "north", "south")}
    serials = {open_site_kit(office.site(name), LATER).serial for name in ("east", "north", "south")}
    assert len(serials) == 3


def test_a_new_name_of_the_server_gets_a_certificate_with_the_same_key(office: Office) -> None:
    before = office.files()
    office.write(server={"names": ["fl.example.org", "new.example.org"], "addresses": ["192.0.2.7"], "port": 8443})
    office.provision(now=LATER)
    after = office.files()
    assert after["server/server.key"] == before["server/server.key"]
    assert after["server/server.crt"] != before["server/server.crt"]
    assert open_server_kit(office.server, LATER).names == ("fl.example.org", "new.example.org")
    assert all(before[path] == after[path] for path in before if path.startswith("sites/"))


def test_an_edited_unit_and_the_hospitals_own_files_outlast_everything(office: Office) -> None:
    own = ["sites/north/site.yaml", "sites/north/state/policy.yaml", "sites/north/adamss-fl-site.service"]
    own += ["server/adamss-fl-server.service"]
    for path in own:
        (office.out / path).write_text("# ours\n")
    office.provision(now=LATER, renew="north", new_key=True)
    office.provision(now=LATER, renew="server", new_key=True)
    assert all((office.out / path).read_text() == "# ours\n" for path in own)


# --- renewing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_key", [False, True])
def test_a_site_is_renewed_alone(office: Office, new_key: bool) -> None:
    before, old = office.files(), open_site_kit(office.site("north"), LATER)
    office.provision(now=LATER, renew="north", new_key=new_key)
    after, new = office.files(), open_site_kit(office.site("north"), LATER)
    assert (new.public_key == old.public_key) is not new_key
    assert (after["sites/north/site.key"] == before["sites/north/site.key"]) is not new_key
    assert datetime.fromisoformat(new.expires) == LATER + timedelta(days=100)
    assert new.serial > old.serial
    outside = {path for path in before if not path.startswith("sites/north/")}
    changed = {path for path in outside if before[path] != after[path]}
    assert changed == {"server/server.json"} | ({"revoked.json"} if new_key else set())
    server = open_server_kit(office.server, LATER)
    assert server.sites["north"] == new.public_key
    assert server.revoked == ((key_fingerprint(old.public_key),) if new_key else ())


@pytest.mark.parametrize("new_key", [False, True])
def test_the_server_is_renewed_alone(office: Office, new_key: bool) -> None:
    before = office.files()
    office.provision(now=LATER, renew="server", new_key=new_key)
    after = office.files()
    assert (after["server/server.key"] == before["server/server.key"]) is not new_key
    assert datetime.fromisoformat(open_server_kit(office.server, LATER).expires) == LATER + timedelta(days=100)
    assert {path for path in before if before[path] != after[path]} <= {
        f"server/{file}" for file in ("server.json", "server.crt", "server.key", "README.md")
    }


def test_a_kit_that_has_expired_can_be_renewed(office: Office) -> None:
    much_later = NOW + timedelta(days=400)
    for name in ("server", "north", "south"):
        office.provision(now=much_later, renew=name)
    assert open_site_kit(office.site("north"), much_later).site == "north"
    assert set(open_server_kit(office.server, much_later).sites) == {"north", "south"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"renew": "nort"}, "--renew: no site 'nort' has a kit; did you mean 'north'?"),
        ({"revoke": "nort"}, "--revoke: no site 'nort' has a kit; did you mean 'north'?"),
        ({"revoke": "server"}, "--revoke: no site 'server' has a kit"),
        ({"renew": "north", "revoke": "south"}, "give one of them"),
        ({"new_key": True}, "--new-key: goes with --renew"),
    ],
)
def test_a_name_or_option_that_is_wrong_is_refused(office: Office, options: dict[str, Any], words: str) -> None:
    assert words in refusal(office, **options)


@pytest.mark.parametrize("options", [{"renew": "north"}, {"revoke": "north"}])
def test_there_is_nothing_to_renew_or_revoke_before_there_are_kits(tmp_path: Path, options: dict[str, Any]) -> None:
    office = Office(tmp_path)
    office.write()
    assert "has no kits yet" in refusal(office, **options)
    assert not office.out.exists()


# --- revoking --------------------------------------------------------------------------------------------------------


def test_a_revoked_site_is_registered_no_longer_and_the_others_stay_as_they_are(office: Office) -> None:
    before, key = office.files(), key_of(office, "north")
    assert "north" not in office.provision(now=LATER, revoke="north")
    after = office.files()
    assert {path for path in before if before[path] != after[path]} == {"server/server.json", "revoked.json"}
    server = open_server_kit(office.server, LATER)
    assert set(server.sites) == {"south"}
    assert server.revoked == ("north",)
    entry = json.loads(after["revoked.json"])["sites"]["north"]
    assert entry == {"key": key_fingerprint(key), "since": LATER.isoformat()}


def test_revoking_is_idempotent_and_for_good(office: Office) -> None:
    office.provision(now=LATER, revoke="north")
    once = office.files()["revoked.json"]
    for options in ({"revoke": "north"}, {}, {"renew": "south"}, {"renew": "server"}):
        office.provision(now=LATER + timedelta(days=1), **options)
        assert office.files()["revoked.json"] == once
        assert set(open_server_kit(office.server, LATER + timedelta(days=1)).sites) == {"south"}
    office.write(sites=[{"name": "south"}])  # it may leave the file now
    office.provision(now=LATER)
    office.write()
    assert "--renew: north is revoked; a site comes back under a new name" in refusal(office, renew="north")


def test_every_site_can_be_revoked(office: Office) -> None:
    office.provision(now=LATER, revoke="north")
    assert set(office.provision(now=LATER, revoke="south")) == {"server"}
    assert open_server_kit(office.server, LATER).sites == {}


def test_a_site_that_is_gone_from_the_file_is_refused_with_the_line_to_use(office: Office) -> None:
    office.write(sites=[{"name": "south"}])
    line = refusal(office)
    assert f"adamss-fl provision {office.file} --out {office.out} --revoke north" in line
    office.provision(now=LATER, revoke="north")
    assert set(open_server_kit(office.server, LATER).sites) == {"south"}


# --- folders that are damaged or something else ----------------------------------------------------------------------


def test_another_name_is_another_consortium(office: Office) -> None:
    office.write(name="lung")
    assert "is the folder of the consortium 'head-and-neck', and the file is of 'lung'" in refusal(office)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write()
    office.out.mkdir()
    (office.out / "thesis.txt").write_text("mine")
    assert "is not empty and has no consortium's authority" in refusal(office)
    (office.out / "thesis.txt").unlink()
    office.out.rmdir()
    office.out.write_text("a file")
    with pytest.raises(InputError, match=r"is not empty and has no consortium's authority"):
        office.provision()
    assert office.out.read_text() == "a file"


def edit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"', b"'", 1) if b'"' in data else b"x" + data[1:])


SPOILS: dict[str, tuple[Callable[[Office, Office], object], str]] = {
    "no ca.key": (lambda a, b: (a.out / "ca/ca.key").unlink(), "ca.key: the private key is missing; restore"),
    "no ca.crt": (lambda a, b: (a.out / "ca/ca.crt").unlink(), "ca.crt: the certificate is missing; restore"),
    "torn ca.key": (lambda a, b: (a.out / "ca/ca.key").write_bytes(b"x"), "ca.key: is no private key"),
    "open ca.key": (lambda a, b: (a.out / "ca/ca.key").chmod(0o644), "ca.key: others on this machine may read"),
    "another's ca.key": (
        lambda a, b: shutil.copy(b.out / "ca/ca.key", a.out / "ca"),
        "ca.key: is not the key of ca.crt",
    ),
    "another's ca": (
        lambda a, b: [shutil.copy(b.out / "ca" / file, a.out / "ca") for file in ("ca.key", "ca.crt")],
        "is of another consortium",
    ),
    "no revoked.json": (lambda a, b: (a.out / "revoked.json").unlink(), "revoked.json: is missing; restore it"),
    "edited revoked.json": (lambda a, b: edit(a.out / "revoked.json"), "revoked.json: is damaged or was edited"),
    "another's revoked.json": (lambda a, b: shutil.copy(b.out / "revoked.json", a.out), "is another consortium's"),
    "edited server.json": (lambda a, b: edit(a.server / "server.json"), "server.json: is damaged or was edited"),
    "another's server": (
        lambda a, b: shutil.copytree(b.server, a.server, dirs_exist_ok=True),
        "server.json: is of another consortium",
    ),
    "edited server.crt": (lambda a, b: edit(a.server / "server.crt"), "server.crt: was edited after it was signed"),
    "no kit.json": (
        lambda a, b: (a.site("north") / "kit.json").unlink(),
        "kit.json: is missing, and north is registered",
    ),
    "no kit": (lambda a, b: shutil.rmtree(a.site("north")), "--renew north"),
    "edited kit.json": (lambda a, b: edit(a.site("north") / "kit.json"), "kit.json: is damaged or was edited"),
    "edited site.pub": (lambda a, b: edit(a.site("north") / "site.pub"), "site.pub: was edited after it was signed"),
    "another site's kit": (
        lambda a, b: shutil.copytree(a.site("south"), a.site("north"), dirs_exist_ok=True),
        "kit.json: is of another site or consortium",
    ),
    "another consortium's kit": (
        lambda a, b: shutil.copytree(b.site("north"), a.site("north"), dirs_exist_ok=True),
        "kit.json: is of another site or consortium",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_damaged_folder_is_refused_and_left_as_it_is(office: Office, other: Office, spoil: str) -> None:
    act, words = SPOILS[spoil]
    act(office, other)
    assert words in refusal(office)


def test_a_damaged_kit_is_made_again_by_renewing_it_with_the_same_key(office: Office) -> None:
    key = key_of(office, "north")
    edit(office.site("north") / "kit.json")
    edit(office.site("north") / "site.pub")
    office.provision(now=LATER, renew="north")
    assert open_site_kit(office.site("north"), LATER).public_key == key


def test_a_lost_kit_is_made_again_without_the_key_that_only_the_site_has_now(office: Office) -> None:
    key = key_of(office, "north")
    private = (office.site("north") / "site.key").read_bytes()
    shutil.rmtree(office.site("north"))
    office.provision(now=LATER, renew="north")
    with pytest.raises(InputError, match=r"site\.key: the private key is missing; put the key there"):
        open_site_kit(office.site("north"), LATER)
    (office.site("north") / "site.key").write_bytes(private)
    (office.site("north") / "site.key").chmod(0o600)
    assert open_site_kit(office.site("north"), LATER).public_key == key


def test_renewing_with_a_key_that_is_not_the_registered_one_needs_new_key(office: Office) -> None:
    shutil.copy(office.site("south") / "site.key", office.site("north") / "site.key")
    assert "is not the key that is registered for north" in refusal(office, renew="north")
    office.provision(now=LATER, renew="north", new_key=True)
    open_site_kit(office.site("north"), LATER)


def test_a_kit_whose_site_key_was_sent_away_and_removed_here_is_renewed_all_the_same(office: Office) -> None:
    key = key_of(office, "north")
    (office.site("north") / "site.key").unlink()
    office.provision(now=LATER)
    office.provision(now=LATER, renew="north")
    assert key_of(office, "north") == key
    assert not (office.site("north") / "site.key").exists()


def test_an_older_kit_put_back_after_its_key_was_replaced_is_refused(office: Office) -> None:
    shutil.copytree(office.site("north"), office.folder / "old")
    office.provision(now=LATER, renew="north", new_key=True)
    shutil.copytree(office.folder / "old", office.site("north"), dirs_exist_ok=True)
    assert "has another key than the one that is registered for north" in refusal(office)


# --- killed in the middle --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


def writes_of(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], last: int | None) -> int:
    """Do ``act``, and end it before its write number ``last``; returns how many writes there were."""
    from adamss_fl.federation import files
    from adamss_fl.provisioning import making, requests, signing, standing

    count = 0

    def write(path: Path, data: bytes, private: bool = False) -> None:
        nonlocal count
        if count == last:
            raise Killed
        count += 1
        files.write_atomically(path, data, private)

    with monkeypatch.context() as patch:
        for module in (making, requests, signing, standing):
            patch.setattr(module, "write_atomically", write)
        try:
            act()
        except Killed:
            assert last is not None
    return count


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "first": ({}, {"sites": [{"name": "north"}]}),
    "add": ({}, {"sites": THREE}),
    "revoke": ({"revoke": "north"}, {}),
    "renew": ({"renew": "north"}, {}),
    "renew with a new key": ({"renew": "north", "new_key": True}, {}),
    "renew the server with a new key": ({"renew": "server", "new_key": True}, {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_killed_before_any_write_and_called_again_all_is_as_it_should_be(
    made: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    options, file = CHANGES[change]
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a process is killed here, not the machine

    def fresh(name: str) -> Office:
        office = Office(tmp_path / name)
        if change == "first":
            office.folder.mkdir()
        else:
            shutil.copytree(made.folder, office.folder)
        office.write(**file)
        return office

    whole = fresh("whole")
    total = writes_of(monkeypatch, lambda: whole.provision(now=LATER, **options), None)
    assert total > 0
    expected = open_server_kit(whole.server, LATER)
    for last in range(total):
        office = fresh(str(last))
        old = None if change == "first" else open_server_kit(office.server, LATER)
        assert writes_of(monkeypatch, lambda o=office: o.provision(now=LATER, **options), last) == last  # type: ignore[misc]
        office.provision(now=LATER, **options)
        server = open_server_kit(office.server, LATER)
        assert set(server.sites) == set(expected.sites)
        for name, key in server.sites.items():
            assert open_site_kit(office.site(name), LATER).public_key == key
        kept = set() if old is None else set(old.sites) - {options.get("renew"), options.get("revoke")}
        assert old is None or all(server.sites[name] == old.sites[name] for name in kept)
        assert ("north" in server.revoked) is (change == "revoke")
        if change == "renew with a new key":
            assert old is not None
            assert key_fingerprint(old.sites["north"]) in server.revoked
            assert old.sites["north"] not in server.sites.values()


# --- what the coordinator is told ------------------------------------------------------------------------------------


def test_kits_that_expire_soon_or_look_elsewhere_are_told(office: Office) -> None:
    consortium = read_consortium(office.file)
    assert room.cautions(consortium, office.out, NOW) == []
    soon = room.cautions(consortium, office.out, NOW + timedelta(days=71))
    assert [line.split(":")[0] for line in soon] == ["server", "north", "south"]
    assert all("expires on 2026-06-09 12:00 UTC; renew it: adamss-fl provision" in line for line in soon)
    office.write(server={**SETTINGS["server"], "port": 9000})
    office.provision(now=LATER, renew="south")
    (line,) = room.cautions(read_consortium(office.file), office.out, LATER)
    assert line.startswith("north: the kit looks for the server at fl.example.org:8443, not fl.example.org:9000; renew")
    assert line.endswith("--renew north")


def test_the_time_is_the_machines_own_where_none_is_given(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write()
    room.provision(read_consortium(office.file), office.out)
    issued = datetime.fromisoformat(json.loads((office.server / "server.json").read_text())["issued"])
    assert abs(datetime.now(UTC) - issued) < timedelta(minutes=1)
