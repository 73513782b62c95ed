"""A site behind its policy: what is forbidden never reaches it, and never leaves it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import site
from recorded_site import DESCRIBED, NOON, TASK, TRAIN, WEIGHTS, Recorder, ask, behind, code_of
from synthetic import make_data, make_task

from adamss_fl.federation.cohort.queries import COHORT_QUERIES
from adamss_fl.federation.digest import message_digest
from adamss_fl.federation.guard.audit import last_entries
from adamss_fl.federation.guard.disclosure import NoCount, fewest_patients, without_small_splits
from adamss_fl.federation.guard.guarded_site import GuardedSite
from adamss_fl.federation.guard.policy import KINDS, PARAMETER_GROUPS, STATISTICS, Policy, Request, decide
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.messages import Instruction, Reply
from adamss_fl.federation.outcome.queries import OUTCOME_QUERIES
from adamss_fl.federation.reply_checks import figures_problem
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.model import group_of

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


@pytest.mark.parametrize(
    ("allowed", "gpus", "reason"),
    [
        ("cuda", 0, "only 0 GPUs are found on this machine"),
        ("cuda:1", 1, "only 1 GPU is found on this machine"),
        ("cuda:1", 2, "the run would use cpu; 'device' is cuda:1"),
    ],
)
def test_a_gpu_that_the_policy_names_and_the_machine_lacks_is_said_so_in_the_sites_own_log(
    allowed: str, gpus: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    door = behind(Recorder(), tmp_path, Policy(device=allowed))
    assert code_of(door) == "device_not_allowed"
    (line,) = (tmp_path / "site.log").read_text().splitlines()
    assert reason in line
    assert ("found on this machine" in line) == (gpus < 2)


def test_a_policy_for_the_second_gpu_says_how_a_run_comes_to_use_it() -> None:
    """A run asks for cuda, which is the first GPU; nothing in it could name the second."""
    found = decide(Policy(device="cuda:1"), Request("a", "train", device="cuda", gpus=2), NOON, None)
    assert found.code == "device_not_allowed"
    assert "set 'device' to cuda:0 and start the site with CUDA_VISIBLE_DEVICES=1" in found.reason


def test_a_gpu_that_the_site_is_set_to_and_lacks_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    inner = Recorder()
    inner.task = replace(inner.task, runtime=replace(inner.task.runtime, device="cuda"))
    assert code_of(behind(inner, tmp_path)) == "no_device"
    assert inner.reached == []
    assert "runtime.device is cuda" in (tmp_path / "site.log").read_text()


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
