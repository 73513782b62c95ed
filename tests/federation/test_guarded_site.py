"""A site behind its policy: what is forbidden never reaches it, never leaves it, and all of it is audited."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import assert_equal_bits, site
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.cohort_queries import COHORT_QUERIES
from adamss_fl.federation.digest import message_digest
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.guard import guarded_site
from adamss_fl.federation.guard.audit import AuditLog, last_entries, verify
from adamss_fl.federation.guard.disclosure import NoCount, fewest_patients, without_small_splits
from adamss_fl.federation.guard.guarded_site import GuardedSite, guarded
from adamss_fl.federation.guard.policy import KINDS, PARAMETER_GROUPS, STATISTICS, Policy
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, PolicyRefusal, Reply, SiteFailure, Weights
from adamss_fl.federation.outcome_queries import OUTCOME_QUERIES
from adamss_fl.federation.reply_checks import figures_problem
from adamss_fl.federation.run import initial_weights, run_federation
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.model import group_of

TASK = make_task()
WEIGHTS = initial_weights(TASK)
DEFAULTS = Policy()
NOON = datetime(2026, 11, 24, 12)
DESCRIBED = {
    "version": "1",
    "architecture": "x",
    "patients": {"train": 6, "validation": 5, "test": 8},
    "events": {"train": 3, "validation": 4, "test": 2},
    "inputs": {"suv_max": [6, 1.0, 2.0]},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "describe": DESCRIBED,
    "statistics": {"sums": {"columns": []}},
    "train": {"patients": 6, "steps": 2},
    "evaluate": {"patients": 8, "masked": 8, "events": 2},
}


class Recorder:
    """A site that answers what it is told to, and remembers what reached it."""

    name = "a"
    local_names: frozenset[str] = frozenset()

    def __init__(self, figures: Mapping[str, Any] | None = None, weights: Weights | None = None) -> None:
        self.task = TASK
        self.data = make_data("a", train=6)
        self.figures = figures
        self.weights = weights
        self.reached: list[Instruction] = []
        self.failure: Exception | None = None

    def handle(self, told: Instruction) -> Reply:
        self.reached.append(told)
        if self.failure is not None:
            raise self.failure
        figures = ANSWERS[told.kind] if self.figures is None else self.figures
        return Reply(told.kind, self.name, told.run, told.round, told.attempt, figures, self.weights)


def ask(kind: str, weights: Weights | None = None, **order: Any) -> Instruction:
    return Instruction(kind, "run", 3, 2, order, weights)  # type: ignore[arg-type]


TRAIN = ask("train", {"w": np.zeros(3, np.float32)}, stages=["survival"])


def behind(behind_it: Any, folder: Path, policy: Policy = DEFAULTS, standing: Any = None) -> GuardedSite:
    home = SiteFolder(folder)
    return GuardedSite(behind_it, lambda: (policy, standing), home.audit, home.log, lambda: NOON)


def code_of(door: GuardedSite, instruction: Instruction = TRAIN) -> str:
    """The code of the refusal, empty where there is an answer."""
    try:
        door.handle(instruction)
    except SiteFailure as failure:
        return failure.code
    return ""


# --- on the way in ----------------------------------------------------------------------------------------------------

instructions = st.builds(
    Instruction,
    kind=st.sampled_from([*KINDS, "dance", ""]),
    run=st.text(max_size=3),
    round=st.integers(0, 5),
    attempt=st.integers(1, 2),
    settings=st.fixed_dictionaries({}, optional={"query": st.sampled_from([*STATISTICS, "risks", 3, None])}),
)


@given(
    instructions,
    st.lists(st.sampled_from(KINDS), unique=True).map(tuple),
    st.lists(st.sampled_from(STATISTICS), unique=True).map(tuple),
)
@settings(max_examples=60)
def test_no_instruction_whose_kind_or_query_is_not_allowed_reaches_the_site(
    tmp_path_factory: pytest.TempPathFactory, told: Instruction, kinds: tuple[Any, ...], statistics: tuple[str, ...]
) -> None:
    recorder = Recorder()
    folder = tmp_path_factory.mktemp("site")
    code = code_of(behind(recorder, folder, Policy(kinds=kinds, statistics=statistics)), told)
    allowed = told.kind in kinds and (told.kind != "statistics" or told.settings.get("query") in statistics)
    if told.kind == "statistics" and told.settings.get("query") in (*OUTCOME_QUERIES, *COHORT_QUERIES):
        reaching = replace(told, settings={**told.settings, "least": 5})  # the policy's minimum cell count goes with it
    else:
        reaching = told
    assert recorder.reached == ([reaching] if allowed else [])
    first, *rest = last_entries(folder / "audit.jsonl", 9)
    assert (first.direction, first.digest, first.decision) == (
        "in",
        message_digest(told)[0],
        "allowed" if allowed else "refused",
    )
    assert [entry.direction for entry in rest] == ["out"]
    if not allowed:
        assert code == ("kind_not_allowed" if told.kind not in kinds else "statistic_not_allowed")
        assert first.code == rest[0].code == code


@pytest.mark.parametrize(
    ("policy", "standing", "expected"),
    [
        (Policy(), None, ""),
        (Policy(paused=True), None, "paused"),
        (Policy(), "paused", "paused"),
        (Policy(), "left", "left"),
        (Policy(runs=("another",)), None, "run_not_allowed"),
        (Policy(runs=(TASK.name,)), None, ""),
        (Policy(hours=("tue 12:01-13:00",)), None, "outside_hours"),
        (Policy(hours=("tue 12:00-12:01",)), None, ""),
        (Policy(device="cuda"), None, "device_not_allowed"),
        (Policy(device="cpu"), None, ""),
        (Policy(groups_may_leave=PARAMETER_GROUPS[:-1]), None, "group_not_allowed"),
        (Policy(max_message_mb=1e-5), None, "too_large"),
        (Policy(min_patients=7), None, "too_few_patients"),
        (Policy(min_patients=6), None, ""),
    ],
)
def test_a_forbidden_training_is_refused_before_it_starts(
    policy: Policy, standing: Any, expected: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    assert code_of(behind(recorder, tmp_path, policy, standing)) == expected
    assert len(recorder.reached) == (expected == "")
    log = tmp_path / "site.log"
    assert not expected or f"refused train of round 3, attempt 2 with code {expected}: " in log.read_text()
    assert bool(expected) == log.exists()


@pytest.mark.parametrize(
    ("masked", "stages", "expected"),
    [
        (4, ["segmentation"], "too_few_patients"),
        (4, ["joint"], "too_few_patients"),
        (4, ["segmentation", "survival"], "too_few_patients"),
        (4, ["survival"], ""),
        (5, ["segmentation"], ""),
        (0, ["segmentation"], ""),
    ],
)
def test_the_loss_of_segmentation_stands_on_the_patients_with_a_mask(
    masked: int, stages: list[str], expected: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    train = [replace(sample, has_mask=number < masked) for number, sample in enumerate(recorder.data.train)]
    recorder.data = replace(recorder.data, train=tuple(train))
    assert code_of(behind(recorder, tmp_path), ask("train", stages=stages)) == expected
    assert len(recorder.reached) == (expected == "")


def test_a_group_that_the_task_keeps_at_home_may_be_forbidden(tmp_path: Path) -> None:
    federation = FederationSettings(groups={"survival_head": PluginSettings("local")})
    real = site("a", make_data("a"), make_task(federation=federation), tmp_path)
    policy = Policy(groups_may_leave=tuple(group for group in PARAMETER_GROUPS if group != "survival_head"))
    reached: list[Instruction] = []
    real.handle = lambda told: reached.append(told) or Reply(told.kind, "a", "run", 3, 2, {"patients": 6})  # type: ignore[method-assign, func-returns-value]
    assert code_of(behind(real, tmp_path, policy)) == ""
    assert reached == [TRAIN]


def test_the_device_is_not_asked_for_where_nothing_is_computed(tmp_path: Path) -> None:
    door = behind(Recorder(), tmp_path, Policy(device="cuda"))
    assert code_of(door, ask("statistics", query="clinical")) == ""
    assert code_of(door, ask("statistics", query="radiomics")) == "device_not_allowed"
    assert code_of(door, ask("evaluate", split="test")) == "device_not_allowed"


# --- on the way out ---------------------------------------------------------------------------------------------------


@given(
    allowed=st.lists(st.sampled_from(PARAMETER_GROUPS), unique=True),
    sent=st.lists(st.sampled_from([*sorted(WEIGHTS), "foreign.weight", "survival_head", ""]), unique=True),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=60)
def test_no_tensor_of_a_forbidden_group_is_in_any_reply(
    tmp_path_factory: pytest.TempPathFactory, allowed: list[str], sent: list[str], kind: str
) -> None:
    """Whatever a site answers, and to whatever; the check before training is left out here."""
    recorder = Recorder(weights={name: np.zeros(1, np.float32) for name in sent})
    recorder.local_names = frozenset(WEIGHTS)  # the task as it stands sends nothing
    door = behind(recorder, tmp_path_factory.mktemp("site"), Policy(groups_may_leave=tuple(allowed)))
    may_leave = {name for name in WEIGHTS if group_of(name) in allowed}
    told = ask(kind, query="clinical")
    if set(sent) <= may_leave:
        assert set(door.handle(told).weights or {}) == set(sent)
    else:
        assert code_of(door, told) == "group_not_allowed"
    assert recorder.reached == [told]


def moments(*n: int) -> dict[str, Any]:
    return {"n": list(n), "mean": [0.0] * len(n), "m2": [0.0] * len(n)}


def column(present: int, n: int) -> dict[str, Any]:
    return {"name": "age", "kind": "continuous", "present": present, "missing": 3, "moments": moments(n), "levels": {}}


@pytest.mark.parametrize(
    ("kind", "query", "figures", "fewest"),
    [
        ("describe", None, DESCRIBED, 5),
        ("train", None, {"patients": 7}, 7),
        ("evaluate", None, {"patients": 9, "masked": 9}, 9),
        ("evaluate", None, {"patients": 9, "masked": 2}, 2),
        ("evaluate", None, {"patients": 9, "masked": 0}, 9),
        ("evaluate", None, {"patients": 0}, None),
        ("statistics", "event_times", {"patients": 8, "counts": [1, 0]}, 8),
        ("statistics", "radiomics", {"patients": 8, "names": ["a"]}, 8),
        ("statistics", "follow_up", {"counts": [2, 0, 5]}, 7),
        ("statistics", "clinical", {"sums": {"columns": [column(9, 9), column(6, 6)]}}, 6),
        ("statistics", "clinical", {"sums": {"columns": [column(0, 0)]}}, None),
        ("statistics", "radiomics_moments", {"moments": moments(9, 0, 5)}, 5),
        ("statistics", "radiomics_products", {"products": {"n": 12}}, 12),
        ("statistics", "radiomics_cox", {"sums": {"events": [1, 1]}}, None),
    ],
)
def test_the_fewest_patients_behind_an_answer(
    kind: str, query: str | None, figures: dict[str, Any], fewest: int | None, tmp_path: Path
) -> None:
    assert fewest_patients(kind, query, figures) == fewest
    for least in (1, 2, 5, 6, 7, 9, 13):
        recorder = Recorder(figures)
        recorder.data = make_data("a", train=13)
        code = code_of(behind(recorder, tmp_path, Policy(min_patients=least)), ask(kind, query=query))
        small = fewest is not None and fewest < least
        if kind == "describe":  # cut down, but for the training patients
            small = figures["patients"]["train"] < least
        assert code == ("too_few_patients" if small else "")


@pytest.mark.parametrize(
    ("kind", "query", "figures"),
    [
        ("train", None, {}),
        ("train", None, {"patients": "9"}),
        ("train", None, {"patients": True}),
        ("train", None, {"patients": -9}),
        ("train", None, {"patients": 9.5}),
        ("describe", None, {"patients": 9}),
        ("evaluate", None, {"patients": 9}),
        ("statistics", "clinical", {"sums": {"columns": [{}]}}),
        ("statistics", "radiomics_moments", {"moments": {"n": 9}}),
        ("statistics", "follow_up", {"counts": ["9"]}),
        ("statistics", "risks", {"patients": 9}),
        ("dance", None, {"patients": 9}),
    ],
)
def test_an_answer_that_does_not_say_how_many_stand_behind_it_does_not_leave(
    kind: str, query: str | None, figures: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(NoCount):
        fewest_patients(kind, query, figures)
    door = behind(Recorder(figures), tmp_path)
    assert code_of(door, ask(kind, query=query)) in {
        "too_few_patients",
        "statistic_not_allowed",
        "kind_not_allowed",
    } | ({"site_error"} if kind == "describe" else set())


@given(
    counts=st.fixed_dictionaries({split: st.integers(0, 9) for split in ("train", "validation", "test")}),
    inputs=st.dictionaries(st.sampled_from("abc"), st.integers(5, 9)),
    least=st.integers(1, 9),
)
def test_a_small_split_is_told_as_an_empty_one_and_the_servers_checks_take_it(
    counts: dict[str, int], inputs: dict[str, int], least: int
) -> None:
    figures = {
        **DESCRIBED,
        "patients": counts,
        "events": {split: count // 2 for split, count in counts.items()},
        "inputs": {name: [n, 1.0, 2.0] for name, n in inputs.items()},
    }
    found = without_small_splits(figures, least)
    assert figures_problem(ask("describe"), found) is None
    for split, count in counts.items():
        kept = split == "train" or count >= least
        assert (found["patients"][split], found["events"][split]) == ((count, count // 2) if kept else (0, 0))
    assert set(found["inputs"]) == {name for name, n in inputs.items() if n >= least}
    told = [*found["patients"].values(), *(sums[0] for sums in found["inputs"].values())]
    assert counts["train"] < least or all(count == 0 or count >= least for count in told)


def test_an_answer_that_is_too_large_does_not_leave(tmp_path: Path) -> None:
    name = next(each for each in WEIGHTS if group_of(each) == "decoder")
    big = Recorder(weights={name: np.zeros(300_000, np.float32)})
    door = behind(big, tmp_path, Policy(max_message_mb=1))
    assert code_of(door) == "too_large"
    big.weights = {name: np.zeros(200_000, np.float32)}
    assert code_of(door) == ""


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ("paused: true\n", "paused"),
        ("left", "left"),
        ("min_patients: 50\n", "too_few_patients"),
        ("min_patients: many\n", "policy_unreadable"),
        ("hours: [sat]\n", ""),
    ],
)
def test_what_is_said_while_a_site_trains_counts_for_its_answer(order: str, code: str, tmp_path: Path) -> None:
    """But for the hours: what was begun in time may be told."""
    home = SiteFolder(tmp_path)
    home.policy_path.write_text("")

    class Interrupted(Recorder):
        def handle(self, told: Instruction) -> Reply:
            if order == "left":
                home.stand("left")
            else:
                home.policy_path.write_text(order)
            return super().handle(told)

    door = GuardedSite(Interrupted(), home.rules, home.audit, home.log, lambda: NOON)
    assert code_of(door) == code
    assert last_entries(home.audit_path, 1)[0].code == code


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
