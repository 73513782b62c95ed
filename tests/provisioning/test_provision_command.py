"""``adamss-fl provision`` as a user types it."""

import json
from pathlib import Path

import pytest
from consortium_office import Office

from adamss_fl.cli.main import main
from adamss_fl.provisioning.kits import open_server_kit, open_site_kit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def desk(tmp_path: Path) -> Office:
    office = Office(tmp_path)
    office.write()
    return office


def provision(*arguments: str) -> int:
    return main(["provision", *arguments])


def test_a_consortium_is_made_joined_by_a_request_renewed_and_revoked(
    desk: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (str(desk.file), "--out", str(desk.out), "--json")
    assert provision(*common) == 0
    out, err = capsys.readouterr()
    assert err == ""
    kits = {"server": desk.server, "north": desk.site("north"), "south": desk.site("south")}
    assert json.loads(out) == {"kits": {name: str(path) for name, path in kits.items()}}

    hospital = desk.folder / "hospital"
    assert provision("--request", "east", "--out", str(hospital), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"request": str(hospital / "east.request.json"), "key": str(hospital / "site.key")}

    desk.write(sites=[{"name": "north"}, {"name": "south"}, {"name": "east", "request": "hospital/east.request.json"}])
    assert provision(*common) == 0
    assert provision(*common, "--renew", "north", "--new-key") == 0
    assert provision(*common, "--revoke", "south") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(said["kits"]) == {"server", "north", "east"}
    assert set(open_server_kit(desk.server).sites) == {"north", "east"}
    assert open_site_kit(desk.site("north")).site == "north"


def test_a_kit_that_looks_for_another_server_is_told_beside_the_result(
    desk: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.write(valid_days=10)
    assert provision(str(desk.file), "--out", str(desk.out), "--json") == 0
    out, err = capsys.readouterr()
    assert "kits" in json.loads(out)
    assert "north: the kit expires on" in err


def test_the_example_is_ready_to_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert provision(str(ROOT / "configs" / "consortium.yaml"), "--out", str(tmp_path / "out")) == 0
    assert "hospital-3" in capsys.readouterr().out
    assert open_site_kit(tmp_path / "out" / "sites" / "hospital-1").server_host == "localhost"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "OUT"], "CONSORTIUM: is missing; give the consortium's file, or --request SITE at a hospital"),
        (["FILE", "--out", "OUT", "--request", "east"], "--request: is given at a hospital, with --out alone"),
        (["--out", "OUT", "--request", "../x"], "--request: must be 1 to 64 letters"),
        (["FILE", "--out", "OUT", "--new-key"], "--new-key: goes with --renew"),
        (["FILE", "--out", "OUT", "--renew", "north"], "has no kits yet; make them first"),
        (["nowhere.yaml", "--out", "OUT"], "nowhere.yaml: there is no such file"),
        (["FILE"], "Missing option '--out'"),
        (["FILE", "--out", "FILE"], "is not empty and has no consortium's authority"),
        (["FILE", "--out", "FILE/below"], "consortium.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    desk: Office, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.replace("FILE", str(desk.file)).replace("OUT", str(desk.out)) for each in arguments]
    before = sorted(desk.folder.rglob("*"))
    assert provision(*given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert sorted(desk.folder.rglob("*")) == before
