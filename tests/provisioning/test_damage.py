"""Provisioning into a folder that is damaged, is something else, or was left by a kill."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from consortium_office import Office
from refusals import LATER, THREE, key_of, refusal

from adamss_fl.errors import InputError
from adamss_fl.provisioning.keys import key_fingerprint
from adamss_fl.provisioning.kits import open_server_kit, open_site_kit

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
