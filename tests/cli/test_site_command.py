"""``adamss-fl site``: what staff at a hospital say and see."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adamss_fl.cli import site as site_command
from adamss_fl.cli.main import main
from adamss_fl.federation.guard.approvals import Approvals
from adamss_fl.federation.guard.audit import AuditLog
from adamss_fl.federation.guard.site_folder import SiteFolder

DIGEST = "0123456789abcdef" * 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    shutil.copy(ROOT / "configs" / "policy.yaml", folder)
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["site", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("name", site_command.COMMANDS)
def test_every_subcommand_has_help_with_an_example_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"adamss-fl site {name}" in out
    assert "Example:" in out
    assert "--json" in out


def test_alone_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in site_command.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["site", "pase", "x"],
            "error: there is no command 'pase'; did you mean 'pause'? (see 'adamss-fl site --help')",
        ),
        (["site", "pause"], "error: Missing argument 'STATE'"),
        (["site", "--nope"], "error: No such option"),
        (["site", "approve", "x", "--nope"], "error: No such option"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(line)


@pytest.mark.parametrize("name", site_command.COMMANDS)
def test_a_folder_that_is_no_sites_takes_no_order(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped path must not say that the site is paused when it is not."""
    for folder in (tmp_path, tmp_path / "missing"):
        digest = [DIGEST] if name in ("approve", "withdraw") else []
        assert main(["site", name, str(folder), *digest]) == 2
        takes_a_kit = name in ("start", "status", "stop")
        assert ("is no kit" if takes_a_kit else "holds no policy.yaml") in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "standing"), [("pause", "paused"), ("resume", "running"), ("leave", "left")])
def test_pause_resume_and_leave_are_kept_with_who_said_so(
    name: str, standing: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, name, str(state), "--by", "Dr. Keller")
    assert set(found) == {"standing", "since", "by"}
    assert (found["standing"], found["by"]) == (standing, "Dr. Keller")
    assert SiteFolder(state).standing() == standing
    assert f"Dr. Keller said that the site is {standing}" in (state / "site.log").read_text()


def test_pause_and_leave_work_where_the_policy_cannot_be_read(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "policy.yaml").write_text("runs: [")
    said(capsys, "pause", str(state))
    (state / "policy.yaml").unlink()
    said(capsys, "leave", str(state))
    assert SiteFolder(state).standing() == "left"


def test_a_bundle_waits_is_approved_and_withdrawn(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Approvals(state).note_seen(DIGEST, 123, ["client/app.py"])
    found = said(capsys, "pending", str(state))
    assert found["approved"] == []
    (waiting,) = found["pending"]
    assert (waiting["digest"], waiting["size"], waiting["files"]) == (DIGEST, 123, ["client/app.py"])
    assert said(capsys, "approve", str(state), DIGEST, "--by", "K")["by"] == "K"
    found = said(capsys, "pending", str(state))
    assert (found["pending"], found["approved"][0]["digest"]) == ([], DIGEST)
    assert Approvals(state).is_approved(DIGEST)
    assert main(["site", "pending", str(state)]) == 0
    shown = capsys.readouterr().out
    assert DIGEST in shown
    assert "1 files" in shown
    assert said(capsys, "withdraw", str(state), DIGEST) == {"digest": DIGEST, "approved": None}
    assert not Approvals(state).is_approved(DIGEST)


def test_what_the_policy_approves_is_withdrawn_in_the_policy(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "policy.yaml").write_text(f'bundles: ["{DIGEST}"]\n')
    assert main(["site", "withdraw", str(state), DIGEST]) == 2
    assert "the policy itself approves" in capsys.readouterr().err


@pytest.mark.parametrize("digest", ["0123", DIGEST.upper(), "x" * 64])
def test_a_digest_is_given_whole(digest: str, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "approve", str(state), digest]) == 2
    assert "give all 64 digits" in capsys.readouterr().err


def test_audit_verifies_and_lists_the_newest_entries(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = AuditLog(state / "audit.jsonl", rotate_bytes=900)
    for number in range(9):
        log.append("in", "train", "run", number, 1, DIGEST, 100, "allowed")
    found = said(capsys, "audit", str(state), "--last", "4")
    assert set(found) == {"whole", "entries", "files", "first", "last", "problems", "notes", "log"}
    assert (found["whole"], found["entries"], found["problems"]) == (True, 9, [])
    assert [entry["n"] for entry in found["log"]] == [6, 7, 8, 9]
    assert found["log"][-1]["digest"] == DIGEST


def test_an_altered_log_is_one_clear_line_and_exit_code_1(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = state / "audit.jsonl"
    for number in range(5):
        AuditLog(path).append("in", "train", "run", number, 1, DIGEST, 100, "refused", "paused")
    path.write_text(path.read_text().replace('"round": 2', '"round": 7'))
    assert main(["site", "audit", str(state), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["whole"] is False
    assert err.count("\n") == 1
    assert err.startswith(f"failed: {path}: the audit log was altered: audit.jsonl:4: entry 3 was changed")


def test_where_nothing_has_passed_audit_says_so(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "audit", str(state)]) == 2
    assert "there is no audit log" in capsys.readouterr().err
