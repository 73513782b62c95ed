"""A guarded site's own folder: the policy's file, the audit of all that passes, and whole runs of such sites."""

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import assert_equal_bits, site
from recorded_site import TRAIN, Recorder, ask, behind, code_of
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.digest import message_digest
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.guard import guarded_site
from adamss_fl.federation.guard.audit import AuditLog, last_entries, verify
from adamss_fl.federation.guard.guarded_site import guarded
from adamss_fl.federation.guard.policy import KINDS, Policy
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, PolicyRefusal, Reply, SiteFailure, Weights
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings

# --- the policy's file ------------------------------------------------------------------------------------------------


def test_a_changed_policy_counts_from_the_next_message_on(tmp_path: Path) -> None:
    home, recorder = SiteFolder(tmp_path), Recorder()
    home.policy_path.write_text("")
    door = guarded(recorder, home)  # type: ignore[arg-type]
    codes = []
    for text in ("", "paused: true ", "paused: false", "kinds: []", "kinds: [train]"):
        home.policy_path.write_text(text)
        codes.append(code_of(door))  # type: ignore[arg-type]
    home.stand("paused")
    codes.append(code_of(door))  # type: ignore[arg-type]
    home.stand("running")
    codes.append(code_of(door))  # type: ignore[arg-type]
    assert codes == ["", "paused", "", "kind_not_allowed", "", "paused", ""]


@pytest.mark.parametrize("harm", ["removed", "torn", "unknown key", "bytes", "folder", "standing"])
def test_without_a_readable_policy_everything_is_refused(harm: str, tmp_path: Path) -> None:
    home, recorder = SiteFolder(tmp_path), Recorder()
    home.policy_path.write_text("paused: false\n")
    assert code_of(guarded(recorder, home), TRAIN) == ""  # type: ignore[arg-type]
    if harm == "standing":
        home.standing_path.write_text('{"standing": "maybe"}')
    else:
        home.policy_path.unlink()
    if harm == "folder":
        home.policy_path.mkdir()
    elif harm not in ("removed", "standing"):
        texts = {"torn": b"runs: [", "unknown key": b"pausd: false\n", "bytes": b"\xff\xfe"}
        home.policy_path.write_bytes(texts[harm])
    recorder.reached.clear()
    for kind in KINDS:
        assert code_of(guarded(recorder, home), ask(kind, query="clinical")) == "policy_unreadable"  # type: ignore[arg-type]
    with pytest.raises(PolicyRefusal, match="policy_unreadable"):
        home.greet()
    assert recorder.reached == []


def test_a_folder_without_a_policy_is_not_guarded(tmp_path: Path) -> None:
    recorder = Recorder()
    home = SiteFolder(tmp_path / "new")
    assert guarded(recorder, home) is recorder  # type: ignore[arg-type, comparison-overlap]
    home.greet()
    home.note_unreadable("site_error")
    assert not home.folder.exists()


def test_a_deployed_site_without_a_policy_refuses_everything(tmp_path: Path) -> None:
    recorder, home = Recorder(), SiteFolder(tmp_path / "new", required=True)
    assert code_of(guarded(recorder, home)) == "policy_unreadable"  # type: ignore[arg-type]
    with pytest.raises(PolicyRefusal, match="policy_unreadable"):
        home.greet()
    assert recorder.reached == []


# --- the audit --------------------------------------------------------------------------------------------------------


def test_both_ends_of_every_message_are_audited_with_the_digest_of_what_passed(tmp_path: Path) -> None:
    recorder = Recorder()
    door = behind(recorder, tmp_path, Policy(kinds=("train", "describe")))
    answer = door.handle(TRAIN)
    code_of(door, ask("evaluate", split="test"))
    recorder.failure = SiteFailure("non_finite_loss")
    code_of(door)
    recorder.failure = InputError("/data/CHUM-001: no such file")
    with pytest.raises(InputError):
        door.handle(TRAIN)
    recorder.failure = ValueError("CHUM-001")
    with pytest.raises(ValueError, match="CHUM-001"):
        door.handle(TRAIN)
    refusal = Reply("evaluate", "a", "run", 3, 2, {"refused": "kind_not_allowed"})
    entries = last_entries(tmp_path / "audit.jsonl", 99)
    assert [(entry.direction, entry.kind, entry.decision, entry.code) for entry in entries] == [
        ("in", "train", "allowed", ""),
        ("out", "train", "answered", ""),
        ("in", "evaluate", "refused", "kind_not_allowed"),
        ("out", "evaluate", "refused", "kind_not_allowed"),
        ("in", "train", "allowed", ""),
        ("out", "train", "refused", "non_finite_loss"),
        ("in", "train", "allowed", ""),
        ("out", "train", "refused", "bad_input"),
        ("in", "train", "allowed", ""),
        ("out", "train", "refused", "site_error"),
    ]
    for place, message in ((0, TRAIN), (1, answer), (3, refusal)):
        assert (entries[place].digest, entries[place].size) == message_digest(message)
    assert {(entry.run, entry.round, entry.attempt) for entry in entries} == {("run", 3, 2)}
    assert verify(tmp_path / "audit.jsonl").problems == ()
    assert "CHUM" not in (tmp_path / "audit.jsonl").read_text()


def test_what_cannot_be_audited_is_neither_done_nor_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    full: set[str] = {"in"}
    kept = AuditLog.append

    def append(self: AuditLog, direction: Any, *told: Any) -> Any:
        if direction in full:
            raise OSError(28, "No space left on device")
        return kept(self, direction, *told)

    monkeypatch.setattr(guarded_site.AuditLog, "append", append)
    assert code_of(behind(recorder, tmp_path)) == "audit_failed"
    assert recorder.reached == []
    full.clear()
    full.add("out")
    assert code_of(behind(recorder, tmp_path)) == "audit_failed"
    assert len(recorder.reached) == 1


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_run_of_guarded_sites_equals_one_of_open_sites_bit_for_bit(tmp_path: Path) -> None:
    task = make_task((1, 1))
    data = {"a": make_data("a", train=6, test=5), "b": make_data("b", train=5, test=6, seed=1)}
    found: list[Weights] = []
    metrics = []
    for name in ("open", "guarded"):
        sites = []
        for each, own in data.items():
            real = site(each, own, task, tmp_path / name)
            real.state_dir.mkdir(parents=True)
            if name == "guarded":
                (real.state_dir / "policy.yaml").write_text("min_cell: 1\n")
            sites.append(guarded(real, SiteFolder(real.state_dir)))
        metrics.append(run_federation(task, LocalSites(sites), tmp_path / name))
        found.append(final_weights(tmp_path / name)[0])
    assert_equal_bits(*found)
    assert [{**each, "run": ""} for each in metrics[:1]] == [{**each, "run": ""} for each in metrics[1:]]
    for each in data:
        home = SiteFolder(tmp_path / "guarded" / "sites" / each)
        assert verify(home.audit_path).problems == ()
        told = [entry for entry in last_entries(home.audit_path, 99) if entry.direction == "out"]
        kinds = [entry.kind for entry in told]
        before = ["statistics"] * 3  # event times, and the comparison of the sites
        assert kinds[:8] == ["describe", *before, "train", "train", "evaluate", "evaluate"]
        assert set(kinds[8:]) == {"statistics"}
        assert not SiteFolder(tmp_path / "open" / "sites" / each).is_guarded


def test_the_policys_minimum_cell_count_wins_over_the_runs(tmp_path: Path) -> None:
    task = make_task((1, 1))
    real = site("a", make_data("a", train=6, test=12), task, tmp_path)
    real.state_dir.mkdir(parents=True)
    (real.state_dir / "policy.yaml").write_text("min_cell: 4\n")
    guard = guarded(real, SiteFolder(real.state_dir))
    run_federation(task, LocalSites([guard]), tmp_path)
    run = json.loads((tmp_path / "metrics.json").read_text())
    last = len(task.plan.rounds)
    for least in (1, 9):
        query = {"query": "outcome_cells", "follow_up": [1.0, 9e3], "predicted_days": [1.0, 9e3], "least": least}
        reply = guard.handle(Instruction("statistics", run["run"], last, 1, query))
        assert reply.figures["least"] == 4
    assert run["federated"]["fewest_in_a_cell"] >= 4


def test_a_refusal_is_an_absence_with_its_code_and_the_run_goes_on(tmp_path: Path) -> None:
    task = make_task((1, 1), federation=FederationSettings(min_sites=1))
    homes = {}
    sites = []
    for number, name in enumerate("ab"):
        real = site(name, make_data(name, train=6, test=6, seed=number), task, tmp_path)
        real.state_dir.mkdir(parents=True)
        homes[name] = SiteFolder(real.state_dir)
        homes[name].policy_path.write_text("kinds: [describe, statistics, train]\n" if name == "b" else "")
        sites.append(guarded(real, homes[name]))
    run_federation(task, LocalSites(sites), tmp_path)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    absences = {(event["site"], event["cause"]) for event in events if event["kind"] == "absence"}
    assert absences == {("b", "kind_not_allowed"), ("b", "no_outcomes")}
    assert "'evaluate' is not under 'kinds'" in (homes["b"].folder / "site.log").read_text()
