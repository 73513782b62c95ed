"""A site's policy: strict reading, and decisions against oracles that are written out by hand."""

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl import __version__, yaml_source
from adamss_fl.errors import InputError
from adamss_fl.federation.guard.policy import (
    KINDS,
    PARAMETER_GROUPS,
    STATISTICS,
    Decision,
    Policy,
    PolicyMistake,
    Request,
    decide,
    decide_reply,
    read_policy,
)
from adamss_fl.model import GROUPS

ROOT = Path(__file__).parents[2]
MONDAY = datetime(2026, 11, 23)
TRAIN = Request("HECKTOR 2022", "train", groups=frozenset(PARAMETER_GROUPS), device="cpu", size=10)

# --- the file ---------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_an_empty_policy_is_the_defaults(tmp_path: Path) -> None:
    assert read_policy(written(tmp_path, "# nothing\n")) == Policy()


def test_the_example_says_every_default_and_names_every_key() -> None:
    path = ROOT / "configs" / "policy.yaml"
    assert read_policy(path) == Policy()
    shown = set(yaml_source.read(path).data) | {"hours", "device"}
    assert shown == set(Policy.__dataclass_fields__)


def test_the_example_with_its_commented_keys_is_a_policy(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "policy.yaml").read_text()
    for key in ("hours", "device"):
        assert f"\n# {key}: " in text
        text = text.replace(f"\n# {key}: ", f"\n{key}: ")
    found = read_policy(written(tmp_path, text))
    assert found == Policy(hours=("mon-fri 18:00-07:00", "sat-sun"), device="cuda:0")


def test_every_key_is_read(tmp_path: Path) -> None:
    text = f"""
runs: ["HECKTOR*", other]
kinds: [describe, train]
statistics: [clinical]
min_patients: 11
min_cell: 7
groups_may_leave: [decoder]
hours: ["tue 10:00-12:00"]
device: cuda
max_message_mb: 2.5
paused: true
bundles: ["{"ab" * 32}"]
"""
    expected = Policy(
        ("HECKTOR*", "other"),
        ("describe", "train"),
        ("clinical",),
        11,
        7,
        ("decoder",),
        ("tue 10:00-12:00",),
        "cuda",
        2.5,
        True,
        ("ab" * 32,),
    )
    assert read_policy(written(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("paused: false\nrun: ['*']\n", "2: run", "unknown key 'run'; did you mean 'runs'?"),
        ("runs: '*'\n", "1: runs", "must be a valid"),
        ("\nmin_patients: '5'\n", "2: min_patients", "must be a valid integer"),
        ("min_patients: 0\n", "1: min_patients", "must be 1 or more, not 0"),
        ("min_patients: 4.5\n", "1: min_patients", "must be a valid integer"),
        ("kinds:\n  - describe\n  - trian\n", "3: kinds[1]", "unknown name 'trian'; did you mean 'train'?"),
        ("statistics: [risks]\n", "1: statistics[0]", "unknown name 'risks'"),
        ("groups_may_leave: [head]\n", "1: groups_may_leave[0]", "unknown name 'head'"),
        ("hours: []\n", "1: hours", "is empty"),
        ("hours: ['mon 25:00-26:00']\n", "1: hours[0]", "a day has the times 00:00 to 24:00"),
        ("hours: ['mon 08:00-08:00']\n", "1: hours[0]", "it starts when it ends"),
        ("hours: ['moon']\n", "1: hours[0]", "days are mon"),
        ("hours: ['mon 8:00-9:00']\n", "1: hours[0]", "write it as"),
        ("device: gpu\n", "1: device", "must be cpu, cuda or cuda:NUMBER, not 'gpu'"),
        ("max_message_mb: 0\n", "1: max_message_mb", "must be more than 0"),
        ("max_message_mb: .inf\n", "1: max_message_mb", "must be a finite number"),
        ("paused: yes please\n", "1: paused", "must be a valid boolean"),
        ("paused: false\npaused: true\n", "2: paused", "the key is there twice"),
        ("bundles: [abc]\n", "1: bundles[0]", "must be a SHA-256"),
        (f"bundles: ['{'AB' * 32}']\n", "1: bundles[0]", "must be a SHA-256"),
        ("- paused\n", "1", "must be a mapping"),
        ("paused: [\n", "2", "not valid YAML"),
    ],
)
def test_a_mistake_names_file_line_and_key(text: str, place: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_policy(path)
    assert str(caught.value).startswith(f"{path}:{place}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_policy_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_policy(tmp_path / "policy.yaml")


def test_the_groups_are_the_models_own() -> None:
    assert PARAMETER_GROUPS == GROUPS


def test_the_statistics_are_the_queries_that_a_site_answers() -> None:
    """Every query of the sources, and no other."""
    files = ("site.py", "site_features.py", "outcome/queries.py", "cohort/queries.py")
    text = "".join((ROOT / "adamss_fl" / "federation" / name).read_text() for name in files)
    assert set(re.findall(r'(?:if name|query\.get\("query"\)) == "(\w+)"', text)) == set(STATISTICS)


# --- decisions --------------------------------------------------------------------------------------------------------


def code(policy: Policy, request: Request = TRAIN, now: datetime = MONDAY, standing: str | None = None) -> str:
    decision = decide(policy, request, now, standing)  # type: ignore[arg-type]
    assert decision.allowed == (decision.code == "") == (decision.reason == "")
    return decision.code


def test_the_default_policy_allows_everything_but_what_must_be_named() -> None:
    for kind in KINDS:
        for statistic in STATISTICS if kind == "statistics" else (None,):
            expected = "statistic_not_allowed" if statistic == "cox_times" else ""
            assert code(Policy(), replace(TRAIN, kind=kind, statistic=statistic)) == expected
    assert code(Policy(statistics=STATISTICS), replace(TRAIN, kind="statistics", statistic="cox_times")) == ""


@pytest.mark.parametrize(
    ("policy", "request_", "expected"),
    [
        (Policy(paused=True), TRAIN, "paused"),
        (Policy(runs=("hecktor*",)), TRAIN, "run_not_allowed"),
        (Policy(runs=()), TRAIN, "run_not_allowed"),
        (Policy(runs=("x", "HECKTOR 20[12]2")), TRAIN, ""),
        (Policy(kinds=("describe",)), TRAIN, "kind_not_allowed"),
        (Policy(), replace(TRAIN, kind="dance"), "kind_not_allowed"),
        (Policy(), Request("a", "statistics", "risks"), "statistic_not_allowed"),
        (Policy(), Request("a", "statistics", None), "statistic_not_allowed"),
        (Policy(statistics=("clinical",)), Request("a", "statistics", "follow_up"), "statistic_not_allowed"),
        (Policy(statistics=("clinical",)), Request("a", "statistics", "clinical"), ""),
        (Policy(statistics=()), TRAIN, ""),
        (Policy(hours=("mon 00:01-24:00",)), TRAIN, "outside_hours"),
        (Policy(hours=("mon 00:00-00:01",)), TRAIN, ""),
        (Policy(device="cuda"), TRAIN, "device_not_allowed"),
        (Policy(device="cuda"), replace(TRAIN, device="cuda:7"), ""),
        (Policy(device="cuda"), replace(TRAIN, device="cuda"), ""),
        (Policy(device="cuda:0"), replace(TRAIN, device="cuda"), ""),
        (Policy(device="cuda:0"), replace(TRAIN, device="cuda:1"), "device_not_allowed"),
        (Policy(device="cuda:1"), replace(TRAIN, device="cuda"), "device_not_allowed"),
        (Policy(device="cpu"), replace(TRAIN, device="cuda"), "device_not_allowed"),
        (Policy(device="cuda"), replace(TRAIN, device=None), ""),
        (Policy(groups_may_leave=PARAMETER_GROUPS[1:]), TRAIN, "group_not_allowed"),
        (Policy(groups_may_leave=()), replace(TRAIN, groups=frozenset()), ""),
        (Policy(max_message_mb=1), replace(TRAIN, size=1_000_000), ""),
        (Policy(max_message_mb=1), replace(TRAIN, size=1_000_001), "too_large"),
        (Policy(), replace(TRAIN, version="0.0.0"), "version_mismatch"),
        (Policy(), replace(TRAIN, version=__version__), ""),
    ],
)
def test_each_rule_refuses_with_its_code(policy: Policy, request_: Request, expected: str) -> None:
    assert code(policy, request_) == expected


@pytest.mark.parametrize(
    ("paused", "standing", "expected"),
    [
        (False, None, ""),
        (True, None, "paused"),
        (False, "paused", "paused"),
        (True, "running", ""),
        (True, "left", "left"),
        (False, "left", "left"),
    ],
)
def test_what_staff_say_wins_over_the_policy_for_requests_and_replies(
    paused: bool, standing: str | None, expected: str
) -> None:
    policy = Policy(paused=paused)
    assert code(policy, standing=standing) == expected
    assert decide_reply(policy, None, frozenset(), 0, standing).code == expected  # type: ignore[arg-type]


requests = st.builds(
    Request,
    task=st.sampled_from(["a", "b"]),
    kind=st.sampled_from([*KINDS, "dance"]),
    statistic=st.sampled_from([*STATISTICS, "risks", None]),
    groups=st.frozensets(st.sampled_from(PARAMETER_GROUPS)),
    device=st.sampled_from(["cpu", "cuda:0", "cuda:1", None]),
    size=st.integers(0, 3_000_000),
)
policies = st.builds(
    Policy,
    runs=st.sampled_from([("a",), ("*",), ()]),
    kinds=st.lists(st.sampled_from(KINDS), max_size=4).map(tuple),
    statistics=st.lists(st.sampled_from(STATISTICS), max_size=7).map(tuple),
    groups_may_leave=st.lists(st.sampled_from(PARAMETER_GROUPS), max_size=8).map(tuple),
    device=st.sampled_from([None, "cpu", "cuda:0"]),
    max_message_mb=st.sampled_from([1.0, 512.0]),
)


@given(policies, requests)
def test_a_request_is_allowed_exactly_where_no_rule_forbids_it(policy: Policy, request: Request) -> None:
    expected = (
        (policy.runs == ("*",) or request.task in policy.runs)
        and request.kind in policy.kinds
        and (request.kind != "statistics" or request.statistic in policy.statistics)
        and all(group in policy.groups_may_leave for group in request.groups)
        and (policy.device is None or request.device in (None, policy.device))
        and request.size <= policy.max_message_mb * 1e6
    )
    assert decide(policy, request, MONDAY).allowed is expected


@pytest.mark.parametrize(
    ("patients", "groups", "size", "expected"),
    [
        (5, {"decoder"}, 1_000_000, ""),
        (None, set(), 0, ""),
        (4, {"decoder"}, 0, "too_few_patients"),
        (1, set(), 0, "too_few_patients"),
        (9, {"survival_head"}, 0, "group_not_allowed"),
        (9, {"decoder", "a tensor of no group"}, 0, "group_not_allowed"),
        (9, set(), 1_000_001, "too_large"),
    ],
)
def test_replies_are_judged_by_patients_groups_and_size(
    patients: int | None, groups: set[str], size: int, expected: str
) -> None:
    policy = Policy(min_patients=5, groups_may_leave=("decoder",), max_message_mb=1)
    assert decide_reply(policy, patients, frozenset(groups), size).code == expected


def test_a_reason_names_the_rule_and_the_code_says_nothing_else() -> None:
    decision = decide(Policy(runs=("x",)), TRAIN, MONDAY)
    assert decision == Decision(False, "run_not_allowed", "no pattern under 'runs' matches the task 'HECKTOR 2022'")


def test_a_policy_with_a_value_out_of_range_cannot_be_made() -> None:
    with pytest.raises(PolicyMistake):
        Policy(min_patients=0)
