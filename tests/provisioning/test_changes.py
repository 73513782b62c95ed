"""Provisioning again: what is added, renewed or revoked, and that nobody else is touched."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from consortium_office import NOW, Office
from refusals import LATER, THREE, key_of, refusal

from adamss_fl.provisioning.keys import key_fingerprint
from adamss_fl.provisioning.kits import open_server_kit, open_site_kit

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
