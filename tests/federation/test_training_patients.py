"""Whom the stages of a round draw from at each site, over sites in this process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import site
from synthetic import make_data, make_task

from adamss_fl.evaluation.report_inputs import read_run, training_patients
from adamss_fl.evaluation.report_methods import methods
from adamss_fl.federation.events import read_events
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.rounds import QuorumLost
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.federation.uniform_batches import uniform_lines


def with_masks(data: SiteData, masked: int) -> SiteData:
    """``data`` in which the first ``masked`` training patients have a mask."""
    train = [
        sample if number < masked else replace(sample, has_mask=False, mask=np.zeros_like(sample.mask))
        for number, sample in enumerate(data.train)
    ]
    return replace(data, train=tuple(train))


def run(task: Task, data: dict[str, SiteData], out: Path, test: bool = False) -> list[dict[str, Any]]:
    sites = LocalSites([site(name, own, task, out) for name, own in data.items()])
    task = replace(task, stages=replace(task.stages, edges_days=(0.0, 150.0, 250.0, 400.0, 2000.0)))
    run_federation(task, sites, out, evaluate_test=test)
    return list(read_events(out / "events.jsonl"))


def patients(events: list[dict[str, Any]]) -> dict[tuple[int, str], int]:
    return {(e["round"], e["site"]): e["figures"]["patients"] for e in events if e["kind"] == "train"}


def absences(events: list[dict[str, Any]]) -> set[tuple[int, str, str]]:
    return {(e["round"], e["site"], e["cause"]) for e in events if e["kind"] == "absence"}


def test_patients_with_a_mask_weigh_stage_one_and_all_patients_stage_two(tmp_path: Path) -> None:
    data = {"a": with_masks(make_data("a", 6), 4), "b": make_data("b", 5, seed=1)}
    events = run(make_task((1, 1)), data, tmp_path)
    assert patients(events) == {(1, "a"): 4, (1, "b"): 5, (2, "a"): 6, (2, "b"): 5}
    assert absences(events) == set()


def test_where_a_round_trains_both_stages_all_patients_weigh(tmp_path: Path) -> None:
    data = {"a": with_masks(make_data("a", 6), 4)}
    assert patients(run(make_task((1, 1), preset="per-round"), data, tmp_path)) == {(1, "a"): 6}


@pytest.mark.parametrize("masked", [0, 2])
def test_a_site_with_fewer_masks_than_a_batch_is_absent_from_stage_one_only(
    masked: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"a": with_masks(make_data("a", 6), masked), "b": make_data("b", 5, seed=1)}
    events = run(make_task((2, 1)), data, tmp_path)
    assert absences(events) == {(1, "a", "too_few_masks"), (2, "a", "too_few_masks")}
    assert patients(events) == {(1, "b"): 5, (2, "b"): 5, (3, "a"): 6, (3, "b"): 5}
    assert f"{masked} of 6 training patients have one" in caplog.text
    assert ("batch_size to 2 or less (it is 3)" in caplog.text) == (masked > 0)


def test_without_enough_masks_for_the_quorum_the_run_names_the_site_and_the_cause(tmp_path: Path) -> None:
    task = make_task((1, 1), federation=FederationSettings(min_sites=2))
    data = {"a": with_masks(make_data("a", 6), 2), "b": make_data("b", 5, seed=1)}
    with pytest.raises(QuorumLost, match=r"round 1: 1 of the 2 sites .* a \(too_few_masks\)"):
        run(task, data, tmp_path)


def with_events(data: SiteData, event: int) -> SiteData:
    return replace(data, train=tuple(replace(sample, event=event) for sample in data.train))


@pytest.mark.parametrize(("event", "words"), [(0, "are all censored"), (1, "all had the event")])
def test_a_fall_back_to_uniform_batches_is_heard(
    event: int, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the events of the site and round, once at the terminal, in the metrics and in the report."""
    data = {"a": make_data("a", 5), "b": with_events(make_data("b", 5, seed=1), event)}
    events = run(make_task((1, 2), balanced=True), data, tmp_path, test=True)
    said = {(e["round"], e["site"]): e["figures"].get("balanced") for e in events if e["kind"] == "train"}
    assert said == {(1, "a"): None, (1, "b"): None, **{(k, s): s == "a" for k in (2, 3) for s in ("a", "b")}}
    line = f"stage II at b drew uniform batches: its training patients {words}"
    assert [record.message for record in caplog.records if "uniform" in record.message] == [f"round 2: {line}"]
    assert json.loads((tmp_path / "metrics.json").read_text())["uniform_batches"] == [line]
    assert dict(methods(read_run(tmp_path)))["Batches"] == f"{line[0].upper()}{line[1:]}."


@pytest.mark.parametrize("stage", [{"balanced": True}, {"balanced": False}])
def test_nothing_is_said_where_batches_are_as_asked_for(
    stage: dict[str, bool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = make_data("a", 5)
    data = {"a": own if stage["balanced"] else with_events(own, 0)}
    events = run(make_task((0, 1), **stage), data, tmp_path, test=True)
    assert uniform_lines(events) == []
    assert "uniform" not in caplog.text
    assert "uniform_batches" not in json.loads((tmp_path / "metrics.json").read_text())
    assert "Batches" not in dict(methods(read_run(tmp_path)))


def test_the_joint_stage_is_named_and_a_log_without_counts_says_what_is_known() -> None:
    events = [
        {"kind": "round_start", "round": 1, "stages": ["joint"]},
        {"kind": "train", "round": 1, "site": "a", "figures": {"balanced": False}},
    ]
    known = "its training patients are all censored, or all had the event"
    assert uniform_lines(events) == [f"the joint stage at a drew uniform batches: {known}"]


def test_training_patients_of_a_report_are_those_of_the_stage_that_had_most(tmp_path: Path) -> None:
    events = run(make_task((1, 1)), {"a": with_masks(make_data("a", 6), 4)}, tmp_path)
    assert training_patients(events) == training_patients(events[::-1]) == {"a": 6}
