"""A site's door: nothing of a bundle is unpacked before it is approved, and no exception's text leaves."""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adamss_fl.cli import door
from adamss_fl.deployment.object_files import LOOKS
from adamss_fl.deployment.site_node import KIT_VARIABLE
from adamss_fl.federation.guard.approvals import Approvals, bundle_digest

PROCESS = "flwr.supernode.runtime.run_clientapp"
BUNDLE = b"code of a stranger"
SECRET = "/data/CHUM-001/ct.nii.gz"


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "site.yaml").write_text("path: data\nstate: state\n")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/policy.yaml").write_text("min_patients: 5\n")
    monkeypatch.setenv(KIT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], list[bytes]]:
    """Runs a check in place of Flower's command, once the door is in front; returns what was unpacked."""
    process: Any = importlib.import_module(PROCESS)
    unpacked: list[bytes] = []
    monkeypatch.setattr(process, "install_from_fab", lambda content, **_: unpacked.append(content))
    for name in ("Error", "pull_and_inflate_object_from_tree", "make_push_object_fn_protobuf"):
        monkeypatch.setattr(process, name, getattr(process, name))  # put back afterwards
    monkeypatch.setattr(process, "push_task_output", lambda client, *what: client.append(what))

    def run(check: Callable[[Any], None]) -> list[bytes]:
        command = importlib.import_module("flwr.supernode.cli.flwr_clientapp")
        monkeypatch.setattr(command, "flwr_clientapp", lambda: check(process))
        door.main()
        return unpacked

    return run


def test_a_bundle_is_unpacked_only_when_it_is_approved(kit: Path, behind: Callable[..., list[bytes]]) -> None:
    def refused(process: Any) -> None:
        with pytest.raises(door.BundleRefused, match=r"^bundle_not_approved$"):
            process.install_from_fab(BUNDLE, skip_prompt=True)

    assert behind(refused) == []
    approvals = Approvals(kit / "state")
    assert [each.digest for each in approvals.pending()] == [bundle_digest(BUNDLE)]
    approvals.approve(bundle_digest(BUNDLE), "somebody")
    assert behind(lambda process: process.install_from_fab(BUNDLE, skip_prompt=True)) == [BUNDLE]


def test_a_kit_without_a_policy_unpacks_nothing(kit: Path, behind: Callable[..., list[bytes]]) -> None:
    (kit / "state/policy.yaml").unlink()
    Approvals(kit / "state").approve(bundle_digest(BUNDLE), "somebody")

    def refused(process: Any) -> None:
        with pytest.raises(door.BundleRefused, match=r"^policy_unreadable$"):
            process.install_from_fab(BUNDLE, skip_prompt=True)

    assert behind(refused) == []


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("<class 'adamss_fl.cli.door.BundleRefused'>:<'bundle_not_approved'>", "bundle_not_approved"),
        ("<class '__main__.BundleRefused'>:<'left'>", "left"),
        (f"<class 'FileNotFoundError'>:<'{SECRET}'>", "site_error"),
        (f"<class 'x.BundleRefused'>:<'{SECRET}'>", "site_error"),
        (f"{SECRET} <class '__main__.BundleRefused'>:<'left'>", "site_error"),
        (None, "site_error"),
    ],
)
def test_an_error_crosses_the_wire_as_a_code(
    kit: Path, behind: Callable[..., list[bytes]], reason: str | None, told: str
) -> None:
    def check(process: Any) -> None:
        assert process.Error(code=2, reason=reason).reason == told

    behind(check)


def test_how_a_task_ended_is_told_without_details(kit: Path, behind: Callable[..., list[bytes]]) -> None:
    def check(process: Any) -> None:
        told: list[Any] = []
        process.push_task_output(client=told, context=None, sub_status="failed", details=f"no {SECRET}")
        process.push_task_output(client=told, context=None, sub_status="completed", details="")
        assert told == [(None, "failed", "site_error"), (None, "completed", "")]

    behind(check)


def test_what_is_large_passes_between_client_and_node_in_files(
    kit: Path, behind: Callable[..., list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process: Any = importlib.import_module(PROCESS)
    content, sent = b"x" * 2**20, []
    object_id = hashlib.sha256(content).hexdigest()
    (kit / "state/objects").mkdir()

    def inflate(tree: Any, pull: Any, confirm: Any, **named: Any) -> Any:
        assert named == {"return_type": dict, **LOOKS}
        return pull(object_id)

    monkeypatch.setattr(process, "pull_and_inflate_object_from_tree", inflate)
    monkeypatch.setattr(process, "make_push_object_fn_protobuf", lambda push, **_: push)

    def check(process: Any) -> None:
        push = process.make_push_object_fn_protobuf(lambda *what: sent.append(what), run_id=1)
        push("small", b"y")
        push(object_id, content)
        assert [what[0] for what in sent] == ["small", object_id]
        assert [what[1] for what in sent] == [b"y", (kit / "state/superexec.secret").read_bytes()]
        assert (kit / "state/objects" / object_id).read_bytes() == content

        def pull(wanted: str) -> bytes:
            raise AssertionError(f"{wanted} was asked for")

        assert process.pull_and_inflate_object_from_tree("tree", pull, None, return_type=dict) == content

    behind(check)
