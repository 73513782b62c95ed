"""Making a consortium's folder for the first time, and what the coordinator is told."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from consortium_office import NOW, SETTINGS, Office
from refusals import LATER, refusal

from adamss_fl.provisioning import provision as room
from adamss_fl.provisioning.kits import open_server_kit, open_site_kit
from adamss_fl.provisioning.settings import read_consortium

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
