"""Approved application bundles: the hash is Flower's own, and nothing that was not approved is let through."""

import io
import json
import multiprocessing
import stat
import zipfile
from pathlib import Path

import pytest

from adamss_fl import __version__
from adamss_fl.errors import InputError
from adamss_fl.federation.guard.approvals import (
    MOST_PENDING,
    Approvals,
    Bundle,
    bundle_digest,
    bundle_files,
    check_bundle,
)
from adamss_fl.federation.guard.audit import last_entries, verify
from adamss_fl.federation.guard.site_folder import SiteFolder

A, B = "a" * 64, "b" * 64


def bundle_of(version: str = __version__, name: str = "adamss-fl", extra: str = "") -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("pyproject.toml", f'[project]\nname = "{name}"\nversion = "{version}"\n')
        archive.writestr("client/app.py", f"raise SystemExit  # {extra}")
    return data.getvalue()


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    (tmp_path / "policy.yaml").write_text("")
    return SiteFolder(tmp_path)


def test_the_digest_is_the_one_that_flower_gives_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower stores a bundle under its hash, and installs it in a folder that its first digits name."""
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.install import install_from_fab
    from flwr.supercore.corestate.in_memory_corestate import InMemoryCoreState
    from flwr.supercore.fab import Fab
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

    class Store(InMemoryCoreState):
        get_node_id = store_message_and_object_tree = None  # what this test does not use

    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    data = build_fab_from_disk(Path(__file__).parents[2])
    assert Store(InMemoryObjectStore()).store_fab(Fab("", data, {})) == bundle_digest(data)
    installed = install_from_fab(data, tmp_path / "apps", skip_prompt=True)
    assert installed.name.endswith(f".{bundle_digest(data)[:8]}")
    assert {"client/app.py", "server/app.py", "pyproject.toml"} <= set(bundle_files(data))


def test_what_was_seen_waits_until_somebody_approves_it_and_again_when_it_is_withdrawn(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    assert (approvals.pending(), approvals.is_approved(A)) == ((), False)
    approvals.note_seen(A, 12, ["b.py", "evil\x1b[2J.py"])
    (seen,) = approvals.pending()
    assert (seen.digest, seen.size, seen.files, seen.approved) == (A, 12, ("b.py", "evil?[2J.py"), None)
    assert not approvals.is_approved(A)
    assert approvals.approve(A, by="K. Meier").by == "K. Meier"
    assert Approvals(tmp_path).is_approved(A)
    assert not approvals.is_approved(B)
    assert approvals.pending() == ()
    (kept,) = approvals.approved()
    assert (kept.first_seen, kept.size, kept.files) == (seen.first_seen, 12, seen.files)
    approvals.withdraw(A)
    assert not approvals.is_approved(A)
    assert approvals.pending() == (seen,)


def test_seeing_a_bundle_again_changes_nothing(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    approvals.note_seen(A, 12, ["b.py"])
    before = approvals.path.read_bytes()
    approvals.note_seen(A, 99, ["other.py"])
    assert approvals.path.read_bytes() == before


def test_a_bundle_may_be_approved_before_it_is_seen(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    approvals.approve(A, by="x")
    assert approvals.approved()[0].first_seen is None
    approvals.note_seen(A, 12, ["b.py"])
    (kept,) = approvals.approved()
    assert (kept.size, kept.files, kept.by) == (12, ("b.py",), "x")
    assert kept.first_seen is not None


def test_only_the_owner_may_read_the_approvals(tmp_path: Path) -> None:
    Approvals(tmp_path).approve(A)
    assert stat.S_IMODE((tmp_path / "approvals.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["approvals.json", "approvals.lock"]


def test_a_server_that_offers_bundle_after_bundle_fills_no_disk_and_pushes_out_no_approval(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    approvals.approve(A)
    digests = [f"{number:064x}" for number in range(MOST_PENDING + 10)]
    for digest in digests:
        approvals.note_seen(digest, 1)
    assert [bundle.digest for bundle in approvals.pending()] == digests[10:]
    assert approvals.is_approved(A)


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" + "a" * 61])
def test_what_is_no_digest_is_neither_seen_nor_approved(digest: str, tmp_path: Path) -> None:
    for method in (Approvals(tmp_path).note_seen, Approvals(tmp_path).approve):
        with pytest.raises(InputError, match="no bundle's digest"):
            method(digest)
    assert not (tmp_path / "approvals.json").exists()


def test_what_is_not_approved_cannot_be_withdrawn(tmp_path: Path) -> None:
    Approvals(tmp_path).note_seen(A)
    for digest in (A, B):
        with pytest.raises(InputError, match="not approved here"):
            Approvals(tmp_path).withdraw(digest)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"bundles": 3}', '{"bundles": [{"digest": "a"}]}', '{"bundles": [3]}']
)
def test_an_approvals_file_that_cannot_be_read_approves_nothing(text: str, site: SiteFolder) -> None:
    site.approvals_path.write_text(text)
    with pytest.raises(InputError):
        Approvals(site.folder).is_approved(A)
    assert check_bundle(bundle_of(), site).code == "policy_unreadable"
    assert site.approvals_path.read_text() == text


def seen(folder: Path, number: int) -> None:
    for each in range(10):
        Approvals(folder).note_seen(f"{number * 10 + each:064x}")


def test_processes_may_note_bundles_at_once(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=seen, args=(tmp_path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert {bundle.digest for bundle in Approvals(tmp_path).pending()} == {f"{number:064x}" for number in range(40)}


# --- the check before a bundle is unpacked ----------------------------------------------------------------------------


def test_a_bundle_is_refused_until_it_is_approved_and_one_changed_byte_is_another_bundle(site: SiteFolder) -> None:
    data = bundle_of()
    assert check_bundle(data, site).code == "bundle_not_approved"
    (waiting,) = Approvals(site.folder).pending()
    assert waiting == Bundle(bundle_digest(data), waiting.first_seen, len(data), ("client/app.py", "pyproject.toml"))
    Approvals(site.folder).approve(waiting.digest)
    assert check_bundle(data, site).allowed
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert check_bundle(changed, site).code == "bundle_not_approved"
    Approvals(site.folder).withdraw(waiting.digest)
    assert check_bundle(data, site).code == "bundle_not_approved"


def test_the_policy_may_approve_a_bundle(site: SiteFolder) -> None:
    data = bundle_of()
    site.policy_path.write_text(f'bundles: ["{bundle_digest(data)}"]\n')
    assert check_bundle(data, site).allowed
    assert not check_bundle(bundle_of(extra="more"), site).allowed


def test_an_approved_bundle_of_another_version_is_refused(site: SiteFolder) -> None:
    for data, code in (
        (bundle_of("9.9.9"), "version_mismatch"),
        (bundle_of("9.9.9", name="another-app"), ""),
        (b"no zip file at all", ""),
    ):
        Approvals(site.folder).approve(bundle_digest(data))
        assert check_bundle(data, site).code == code


@pytest.mark.parametrize(("standing", "code"), [("paused", "paused"), ("left", "left"), ("running", "")])
def test_a_site_that_is_paused_or_has_left_runs_no_approved_bundle(standing: str, code: str, site: SiteFolder) -> None:
    Approvals(site.folder).approve(bundle_digest(bundle_of()))
    site.stand(standing)  # type: ignore[arg-type]
    assert check_bundle(bundle_of(), site).code == code


@pytest.mark.parametrize("policy", ["pausd: true\n", "runs: [\n", None])
def test_without_a_readable_policy_no_bundle_runs(policy: str | None, site: SiteFolder) -> None:
    Approvals(site.folder).approve(bundle_digest(bundle_of()))
    if policy is None:
        site.policy_path.unlink()
    else:
        site.policy_path.write_text(policy)
    assert check_bundle(bundle_of(), site).code == "policy_unreadable"


def test_every_bundle_is_in_the_audit_log_and_the_reason_in_the_sites_own(site: SiteFolder) -> None:
    data = bundle_of()
    check_bundle(data, site)
    Approvals(site.folder).approve(bundle_digest(data))
    check_bundle(data, site)
    entries = last_entries(site.audit_path, 9)
    assert [(entry.kind, entry.decision, entry.code) for entry in entries] == [
        ("bundle", "refused", "bundle_not_approved"),
        ("bundle", "allowed", ""),
    ]
    assert {(entry.digest, entry.size) for entry in entries} == {(bundle_digest(data), len(data))}
    assert verify(site.audit_path).problems == ()
    assert f"adamss-fl site approve {site.folder} {bundle_digest(data)}" in (site.folder / "site.log").read_text()


def test_names_in_a_bundle_are_read_without_unpacking(tmp_path: Path) -> None:
    assert bundle_files(bundle_of()) == ("client/app.py", "pyproject.toml")
    assert bundle_files(b"PK\x05\x06 nothing") == ()
    assert json.dumps(bundle_files(b"")) == "[]"
