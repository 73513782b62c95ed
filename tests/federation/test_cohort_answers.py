"""What a hospital tells of its training patients is held to its rules, and an answer that cannot be is left out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohort_hospitals import CLINICAL, EDGES, TASK, Hospitals, Spoil, cohort, encoding_of, figures_of, patients, pooled

from adamss_fl.errors import InputError
from adamss_fl.federation.cohort.figures import cohort_figures, error_lines
from adamss_fl.federation.cohort.queries import COHORT_QUERIES, answer_cohort
from adamss_fl.federation.guard.disclosure import NoCount, fewest_patients
from adamss_fl.federation.guard.guarded_site import guarded
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, SiteFailure
from adamss_fl.federation.run import preflight
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.radiomics import TabularSettings
from adamss_fl.survival import TimeGrid, kaplan_meier

# --- the minimum cell count and the policy ----------------------------------------------------------------------------


@pytest.mark.parametrize("least", [2, 5, 10])
def test_no_answer_under_a_minimum_tells_of_fewer(least: int) -> None:
    """Every answer, as it leaves the site."""
    ask = Hospitals(cohort((120, 80, 60)), dict.fromkeys(("s0", "s1", "s2"), least))
    everyone = pooled(ask.sites)
    bins = TimeGrid.from_quantiles(everyone.time[everyone.event == 1], 10).edges_days
    found = cohort_figures(ask, TASK, sorted(ask.sites), bins, encoding_of(ask.sites))
    assert {query for query, _ in ask.told} == set(COHORT_QUERIES)
    tables, regressed = [], 0
    for query, figures in ask.told:
        assert fewest_patients("statistics", query, figures) >= least
        if query == "survival_counts" and "sums" in figures:
            tables += [figures["sums"][name] for name in ("events", "censored", "beyond")]
        elif query == "columns":
            tables += [column["cells"]["counts"] for column in figures["sums"].values()]
        elif query == "cox" and figures["sums"] is not None:
            regressed += 1
            assert figures["sums"]["events"] >= least
        elif query == "cox_times":
            assert "sums" not in figures  # of these hospitals none has groups large enough
    for table in tables:
        held = np.asarray(table)
        assert not ((held > 0) & (held < least)).any()
    assert len(tables) >= 9
    assert regressed >= 9
    assert found["follow_up"]["patients"] == 260
    curve = found["follow_up"]["all"]
    assert len(curve["edges_days"]) < 65
    exact = kaplan_meier(everyone.time, everyone.event)
    for day, low, high in zip(curve["edges_days"], curve["survival_low"], curve["survival"], strict=True):
        assert low - 1e-12 <= exact.survival[np.searchsorted(exact.times, day, side="right") - 1] <= high + 1e-12


def test_a_site_below_the_minimum_is_left_out_by_name_everywhere() -> None:
    ask = Hospitals({**cohort(), "tiny": patients(9, 4)}, {"tiny": 5})
    found = figures_of(ask)
    for part in (found, found["follow_up"], found["columns"], found["cox"], found["cox_one_baseline"]):
        assert part["left_out"] == {"tiny": "fewer training patients than its minimum cell count"}
    for query, figures in ask.told:
        assert figures["patients"] > 4 or set(figures) == {"patients", "least"}, query
    assert list(found["sites"]) == ["s0", "s1", "s2"]


def test_what_too_few_share_is_untold_at_a_site() -> None:
    few = patients(0, 40)
    few = tuple(
        replace(sample, has_mask=k < 4, clinical={"age_years": 60.0 + k, "hpv": float(k < 3), "sex": "M"})
        for k, sample in enumerate(few)
    )
    found = answer_cohort({"query": "summary", "least": 5}, few, TASK, "s0")
    assert found["behind"] == {"suv": 40, "tumour": 0}
    assert (found["summary"]["tumour_ml"], found["summary"]["nodes"]) == (None, None)
    ask = Hospitals({"s0": few, "s1": patients(1, 80)}, {"s0": 5})
    left_out = figures_of(ask)["cox"]["covariates_left_out"]
    assert left_out["hpv=1"] == "too few patients at s0 differ in it"
    for query, figures in ask.told:
        if query == "cox":
            assert figures["sums"] is None or not figures["rare"]


def test_risk_sets_are_told_on_a_grid_on_which_no_small_group_leaves() -> None:
    """At beta 0 neighbouring sums differ by counts of those who leave, and by how many of them have HPV."""
    least, sites = 4, cohort((3000, 300))
    ask = Hospitals(sites, {"s0": least})
    encoding = encoding_of(sites, CLINICAL[1:2])
    found = cohort_figures(ask, TASK, sorted(sites), EDGES, encoding)["cox_one_baseline"]
    assert found["sites"] == ["s0", "s1"]
    assert found["times"] == 7
    told = next(f["sums"] for q, f in ask.told if q == "cox_times" and f["least"] == least and "sums" in f)
    events, having = np.array(told["tied"]["s0"]), np.array(told["tied"]["s1"])
    leaving = -np.diff([*told["at_risk"]["s0"], 0.0])
    all_having = -np.diff(np.vstack([told["at_risk"]["s1"], np.zeros(2)]), axis=0)
    assert (leaving == np.round(leaving)).all()
    for group, some in ((events, having), (leaving - events, all_having - having)):
        cells = np.concatenate([group, *some.T, *(group[:, None] - some).T]).round(9)
        assert not ((cells > 0) & (cells < least)).any()
    finest = cohort_figures(Hospitals(sites), TASK, sorted(sites), EDGES, encoding)["cox_one_baseline"]
    assert finest["times"] == 64
    coarse, fine = (each["covariates"]["hpv=1"] for each in (found, finest))
    assert abs(coarse["beta"] - fine["beta"]) < fine["se"]


def test_a_site_with_too_few_events_is_no_part_of_the_regression() -> None:
    calm = tuple(replace(sample, event=int(k < 3)) for k, sample in enumerate(patients(3, 40)))
    ask = Hospitals({**cohort(), "s3": calm}, {"s3": 5})
    cox = figures_of(ask)["cox"]
    assert cox["left_out"] == {"s3": "fewer events than its minimum cell count"}
    assert cox["sites"] == ["s0", "s1", "s2"]
    without = figures_of(Hospitals(cohort()))["cox"]
    assert cox["covariates"]["hpv=1"]["beta"] == pytest.approx(without["covariates"]["hpv=1"]["beta"], rel=0.02)


def test_the_policy_holds_on_every_answer_of_a_site(tmp_path: Path) -> None:
    """A guarded site raises the minimum, refuses what is forbidden, and the rest is told without it."""
    sites = []
    for number, name in enumerate(("a", "b")):
        data = SiteData(patients(number, 60))
        real = Site(name, lambda data=data: data, TASK, tmp_path / name)  # type: ignore[misc]
        real.state_dir.mkdir()
        allowed = [query for query in ("event_times", "clinical", *COHORT_QUERIES) if (name, query) != ("b", "cox")]
        (real.state_dir / "policy.yaml").write_text(f"min_cell: 6\nstatistics: [{', '.join(allowed)}]\n")
        sites.append(guarded(real, SiteFolder(real.state_dir)))
    for query in ({"query": "summary"}, {"query": "columns", "edges": {"age_years": [50.0, 60.0]}}):
        reply = sites[0].handle(Instruction("statistics", "run", 0, 1, {**query, "least": 1}))
        assert reply.figures["least"] == 6
    found = preflight(TASK, LocalSites(sites), tmp_path)
    assert sorted(found["sites"]) == ["a", "b"]
    assert found["cox"]["sites"] == ["a"]
    assert "policy" in found["cox"]["left_out"]["b"]
    assert "left_out" not in found["follow_up"]


# --- answers that cannot be, and none ---------------------------------------------------------------------------------


PARTS = {"survival_counts": "follow_up", "cox_times": "cox_one_baseline"}
"""Where the figures of a query stand, if not under its own name."""


def _spoiled(query: str, change: Callable[[dict[str, Any]], None]) -> Spoil:
    def spoil(asked: str, figures: dict[str, Any]) -> dict[str, Any]:
        if asked == query:
            change(figures)
        return figures

    return spoil


IMPOSSIBLE: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "more events than patients": ("summary", lambda f: f["summary"].update(events=9999), "site summary|events of"),
    "another site": ("summary", lambda f: f["summary"].update(site="s0"), "of another site"),
    "no summary": ("summary", lambda f: f.update(summary=None), "site summary"),
    "no count": ("summary", lambda f: f.update(patients="80"), "patients"),
    "a negative count": ("survival_counts", lambda f: f["sums"]["beyond"].__setitem__(0, -1), "survival counts"),
    "fewer than its patients": ("survival_counts", lambda f: f["sums"]["beyond"].__setitem__(0, 0), "survival counts"),
    "no level": ("survival_counts", lambda f: f.update(finest=99), "which level"),
    "a mean outside": ("columns", lambda f: f["sums"]["age_years"]["moments"].update(n=[1]), "column sums"),
    "another column": ("columns", lambda f: f.update(sums={"hpv": {}}), "column sums"),
    "no covariance": ("cox", lambda f: f["sums"]["information"][0].__setitem__(0, -1.0), "Cox derivatives"),
    "a likelihood above 1": ("cox", lambda f: f["sums"].update(log_likelihood=5.0), "Cox derivatives"),
    "no grid": ("cox_times", lambda f: f.update(finest=-1), "which level"),
    "a risk set that grows": ("cox_times", lambda f: f["sums"]["at_risk"]["s0"].__setitem__(0, 1e-3), "Cox sums"),
    "rare nonsense": ("cox", lambda f: f.update(rare=[77]), "Cox derivatives"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_answer_is_left_out_by_name(name: str) -> None:
    query, change, why = IMPOSSIBLE[name]
    sites = cohort()
    if name == "fewer than its patients":  # somebody must be followed past the last edge
        sites["s1"] = (*sites["s1"], replace(sites["s1"][0], time_days=5000.0, event=0))
    found = figures_of(Hospitals(sites, spoil={"s1": _spoiled(query, change)}))
    part = found if query == "summary" else found[PARTS.get(query, query)]
    assert list(part["left_out"]) == ["s1"]
    assert any(each in part["left_out"]["s1"] for each in why.split("|"))
    others = {name: samples for name, samples in sites.items() if name != "s1"}
    ask = Hospitals(others)
    alone = cohort_figures(ask, TASK, sorted(others), EDGES, encoding_of(sites))
    expected = alone if query == "summary" else alone[PARTS.get(query, query)]
    for key in expected:
        if key not in ("follow_up", "columns", "cox", "cox_one_baseline") or query != "summary":
            assert part[key] == expected[key], key


def test_a_site_that_turns_impossible_during_the_fit_is_left_out_and_the_fit_begins_anew() -> None:
    asked = []

    def later(query: str, figures: dict[str, Any]) -> dict[str, Any]:
        asked.append(query)
        if asked.count("cox") > 4:
            figures["sums"] = {"events": -1}
        return figures

    sites = cohort()
    cox = figures_of(Hospitals(sites, spoil={"s1": later}))["cox"]
    assert list(cox["left_out"]) == ["s1"]
    others = {name: samples for name, samples in sites.items() if name != "s1"}
    expected = cohort_figures(Hospitals(others), TASK, sorted(others), EDGES, encoding_of(sites))["cox"]
    assert cox["covariates"] == expected["covariates"]


def test_a_site_that_finds_new_rare_covariates_each_time_ends_the_fit_with_a_reason() -> None:
    asked = []

    def rare(query: str, figures: dict[str, Any]) -> dict[str, Any]:
        asked.append(query)
        if query == "cox" and asked.count("cox") % 2 == 0:
            figures["rare"] = [asked.count("cox") // 2 - 1]
        return figures

    cox = figures_of(Hospitals(cohort(), spoil={"s1": rare}))["cox"]
    assert len(asked) < 60
    assert set(cox) <= {"reason", "left_out", "covariates_left_out", *figures_of(Hospitals(cohort()))["cox"]}


@pytest.mark.parametrize("query", COHORT_QUERIES)
def test_a_lost_quorum_costs_one_part_alone(query: str) -> None:
    ask = Hospitals(cohort())
    ask.fails = {query}
    found = figures_of(ask)
    parts = {
        "summary": found,
        "survival_counts": found["follow_up"],
        "columns": found["columns"],
        "cox": found["cox"],
        "cox_times": found["cox_one_baseline"],
    }
    costs = {query, "cox_times"} if query == "cox" else {query}  # whose covariates are those of the other
    assert {name for name, part in parts.items() if "reason" in part} == costs
    assert "0 of the 1 sites" in parts[query]["reason"]


@pytest.mark.parametrize("events", [0, 1])
def test_one_event_or_none_gives_reasons_and_never_nan(events: int) -> None:
    sites = {
        name: tuple(
            replace(sample, event=int(events == 1 and (name, k) == ("s0", 3))) for k, sample in enumerate(samples)
        )
        for name, samples in cohort((20, 20)).items()
    }
    found = figures_of(Hospitals(sites))
    assert "reason" in found["cox"]
    assert "reason" in found["cox_one_baseline"]
    assert found["follow_up"]["events"] == events
    assert "nan" not in json.dumps(found).lower()
    assert sum("no_events" in line for line in error_lines(found)) == 2 - events


def test_columns_and_regression_are_for_clinical_columns_alone() -> None:
    ask = Hospitals(cohort(), task=replace(TASK, tabular=TabularSettings()))
    found = cohort_figures(ask, ask.task, sorted(ask.sites), EDGES, None)
    assert (found["columns"], found["cox"], found["cox_one_baseline"]) == (None, None, None)
    assert {query for query, _ in ask.told} == {"summary", "survival_counts"}
    assert found["sites"]["s0"]["missing"] == {}
    only_levels = figures_of(Hospitals(cohort()), CLINICAL[1:])
    assert only_levels["columns"] == {"summaries": {}, "quartiles": {}}


def test_an_answer_that_does_not_say_how_many_stand_behind_it_cannot_be_judged() -> None:
    summary = answer_cohort({"query": "summary"}, patients(0, 20), TASK, "s0")
    assert fewest_patients("statistics", "summary", summary) == 20
    assert fewest_patients("statistics", "summary", {**summary, "behind": {"suv": 3, "tumour": 0}}) == 3
    for query in ("summary", "columns"):
        with pytest.raises(NoCount):
            fewest_patients("statistics", query, {"patients": 20, "least": 1, "summary": {}})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"query": "summary", "least": 0}, "whole number"),
        ({"query": "summary", "least": True}, "whole number"),
        ({"query": "columns", "edges": {"hpv": [0.5]}}, "column 'hpv'"),
        ({"query": "columns", "edges": {"age_years": [2.0, 1.0]}}, "increase"),
        ({"query": "survival_counts", "levels": [[5.0, 1.0]], "level": 0}, "start at 0"),
    ],
)
def test_malformed_queries_are_refused(query: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        answer_cohort(query, patients(0, 20), TASK, "s0")


def test_unknown_queries_are_refused_and_a_site_tells_a_code_alone(tmp_path: Path) -> None:
    with pytest.raises(SiteFailure, match="unknown_query"):
        answer_cohort({"query": "rows"}, patients(0, 20), TASK, "s0")
    bad = tuple(replace(sample, clinical={"age_years": "old"}) for sample in patients(0, 20))
    site = Site("s0", lambda: SiteData(bad), TASK, tmp_path)
    asked = Instruction("statistics", "run", 0, 1, {"query": "columns", "edges": {"age_years": [50.0]}})
    with pytest.raises(SiteFailure) as caught:
        site.handle(asked)
    assert caught.value.code == "bad_input"
