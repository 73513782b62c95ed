"""Figures on all sites' training patients before training: against lifelines on the pooled patients, and by hand."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process import assert_equal_bits
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.cohort_answers import nested_edges
from adamss_fl.federation.cohort_figures import cohort_figures, error_lines
from adamss_fl.federation.cohort_queries import COHORT_QUERIES, answer_cohort
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.guard.disclosure import NoCount, fewest_patients
from adamss_fl.federation.guard.guarded_site import guarded
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, Reply, SiteFailure
from adamss_fl.federation.rounds import QuorumLost
from adamss_fl.federation.run import preflight, run_federation
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import ImagingSettings, Sample
from adamss_fl.radiomics import ClinicalColumn, TabularSettings
from adamss_fl.radiomics.clinical import ClinicalSums
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.survival import TimeGrid, kaplan_meier

EDGES = [320.0 * k for k in range(11)]
"""Sixty-four parts of these bins end half a day after every 50 days, on which all times lie."""
CLINICAL = (ClinicalColumn("age_years"), ClinicalColumn("hpv", "binary"), ClinicalColumn("sex", "categorical"))
TASK = replace(
    make_task(),
    imaging=ImagingSettings(grid=(16, 16, 16), spacing_mm=(4.0, 4.0, 4.0)),
    tabular=TabularSettings(CLINICAL),
)

Cohort = dict[str, tuple[Sample, ...]]
Spoil = Callable[[str, dict[str, Any]], dict[str, Any]]


def patients(number: int, count: int, **changed: Any) -> tuple[Sample, ...]:
    """Patients of one hospital whose hazard grows with age and falls with hpv; images of 8 voxels a side."""
    rng = np.random.default_rng([7, number])
    found = []
    for k in range(count):
        age, hpv = rng.normal(60, 9), float(rng.random() < 0.5)
        died = rng.exponential() * 1500 * np.exp(-0.04 * (age - 60) + 0.7 * hpv)
        lost = rng.uniform(100, 3200)
        mask = np.zeros((2, 8, 8, 8), np.uint8)
        mask[0, :3, :3, : 1 + k % 4] = 1
        mask[1, 5, 5, 5], mask[1, 7, 7, 7] = 1, k % 2
        values = {
            "age_years": None if rng.random() < 0.2 else float(age),
            "hpv": None if rng.random() < 0.2 else hpv,
            "sex": "MF"[int(rng.integers(2))],
        }
        sample = Sample(
            patient_id=f"p{number}-{k}",
            site=f"s{number}",
            image=rng.uniform(0.0, 0.3, (2, 8, 8, 8)).astype(np.float32),
            mask=mask,
            has_mask=True,
            time_days=float(np.ceil(min(died, lost) / 50) * 50),
            event=int(died <= lost),
            clinical=values,
        )
        found.append(replace(sample, **changed))
    return tuple(found)


def cohort(sizes: Sequence[int] = (120, 80, 60)) -> Cohort:
    return {f"s{number}": patients(number, size) for number, size in enumerate(sizes)}


def encoding_of(sites: Cohort, columns: Sequence[ClinicalColumn] = CLINICAL) -> TabularEncoding:
    everyone = [sample.clinical for samples in sites.values() for sample in samples]
    return TabularEncoding(ClinicalSums.of(columns, everyone).encodings())


class Hospitals:
    """Sites that answer cohort queries, as ``Rounds.ask`` would give their replies."""

    def __init__(
        self,
        sites: Cohort,
        least: Mapping[str, int] | None = None,
        spoil: Mapping[str, Spoil] | None = None,
        task: Task = TASK,
    ) -> None:
        self.sites, self.least, self.spoil, self.task = sites, least or {}, spoil or {}, task
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.fails: set[str] = set()

    def __call__(self, query: Mapping[str, Any]) -> list[Reply]:
        if query["query"] in self.fails:
            raise QuorumLost("statistics: 0 of the 1 sites needed gave a usable reply")
        replies = []
        for name, samples in sorted(self.sites.items()):
            asked = json.loads(json.dumps({**query, "least": self.least.get(name, 1)}))
            figures = json.loads(json.dumps(answer_cohort(asked, samples, self.task, name), allow_nan=False))
            figures = self.spoil.get(name, lambda _, given: given)(query["query"], figures)
            self.told.append((query["query"], figures))
            replies.append(Reply("statistics", name, "run", 0, 1, figures))
        return replies


def figures_of(ask: Hospitals, columns: Sequence[ClinicalColumn] = CLINICAL) -> dict[str, Any]:
    return cohort_figures(ask, ask.task, sorted(ask.sites), EDGES, encoding_of(ask.sites, columns))


def pooled(sites: Cohort) -> pd.DataFrame:
    rows = [
        {"site": name, "time": sample.time_days, "event": sample.event, **sample.clinical}
        for name, samples in sites.items()
        for sample in samples
    ]
    return pd.DataFrame(rows)


# --- equal to the pooled patients -------------------------------------------------------------------------------------


def test_the_survival_curve_and_numbers_at_risk_are_lifelines_on_the_pooled_patients() -> None:
    from lifelines import KaplanMeierFitter

    ask = Hospitals(cohort())
    found = figures_of(ask)["follow_up"]
    table = pooled(ask.sites)
    fitter = KaplanMeierFitter().fit(table.time, table.event)
    curve = found["all"]
    assert len(curve["edges_days"]) == 65
    expected = fitter.survival_function_at_times(curve["edges_days"]).to_numpy()
    np.testing.assert_allclose(curve["survival"], expected, rtol=0, atol=1e-12)
    for day, at_risk in zip(curve["edges_days"][1:], curve["at_risk"][1:], strict=True):
        assert at_risk == (table.time >= day - 0.5).sum()
    assert curve["median_days"] == fitter.median_survival_time_ + 0.5
    assert (found["patients"], found["events"]) == (260, int(table.event.sum()))
    reverse = KaplanMeierFitter().fit(table.time, 1 - table.event)
    assert found["median_follow_up_days"] == pytest.approx(reverse.median_survival_time_, abs=50)
    for name, own in found["sites"].items():
        alone = KaplanMeierFitter().fit(table.time[table.site == name], table.event[table.site == name])
        np.testing.assert_allclose(own["survival"], alone.survival_function_at_times(own["days"]), atol=1e-12)


def test_the_log_rank_test_between_sites_is_lifelines() -> None:
    from lifelines.statistics import multivariate_logrank_test

    ask = Hospitals(cohort())
    found = figures_of(ask)["follow_up"]["log_rank_between_sites"]
    table = pooled(ask.sites)
    expected = multivariate_logrank_test(table.time, table.site, table.event)
    assert found["statistic"] == pytest.approx(expected.test_statistic, rel=1e-9)
    assert found["p_value"] == pytest.approx(expected.p_value, rel=1e-9)
    assert found["degrees_of_freedom"] == 2


def test_hazard_ratios_are_lifelines_stratified_by_site() -> None:
    from lifelines import CoxPHFitter

    ask = Hospitals(cohort())
    found = figures_of(ask)["cox"]
    table = pooled(ask.sites)
    age, hpv = table.age_years, table.hpv.astype(float)
    x = pd.DataFrame(
        {
            "age_years": ((age - age.mean()) / age.std(ddof=0)).fillna(0.0),
            "age_years.missing": age.isna().astype(float),
            "hpv=1": (hpv == 1).astype(float),
            "hpv.missing": hpv.isna().astype(float),
            "sex=F": (table.sex == "F").astype(float),
        }
    )
    fitter = CoxPHFitter().fit(
        pd.concat([x, table[["time", "event", "site"]]], axis=1),
        "time",
        "event",
        strata=["site"],
        fit_options={"precision": 1e-12},
    )
    assert list(found["covariates"]) == list(x.columns)
    assert set(found["covariates_left_out"]) == {"sex=M", "sex.missing"}
    for name, mine in found["covariates"].items():
        theirs = fitter.summary.loc[name]
        pairs = {
            "hazard_ratio": "exp(coef)",
            "ci_low": "exp(coef) lower 95%",
            "ci_high": "exp(coef) upper 95%",
            "p": "p",
        }
        for key, column in pairs.items():
            assert mine[key] == pytest.approx(theirs[column], rel=1e-6), (name, key)
    assert found["covariates"]["age_years"]["hazard_ratio"] > 1 > found["covariates"]["hpv=1"]["hazard_ratio"]
    assert f"{age.std(ddof=0):.4g}" in found["covariates"]["age_years"]["per"]
    assert (found["events"], found["sites"], found["converged"]) == (int(table.event.sum()), ["s0", "s1", "s2"], True)


def test_columns_are_those_of_the_pooled_patients() -> None:
    ask = Hospitals(cohort())
    (age,) = figures_of(ask)["columns"]["summaries"].values()
    values = pooled(ask.sites).age_years.dropna()
    assert age["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert age["sd"] == pytest.approx(values.std(), rel=1e-12)
    assert age["missing"] == 260 - values.size
    cells = [-np.inf, *age["edges"], np.inf]
    assert list(age["histogram"]) == np.histogram(values, cells)[0].tolist()


def test_a_summary_by_hand() -> None:
    samples = patients(1, 40)
    samples = (*samples[:30], *(replace(sample, has_mask=False) for sample in samples[30:]))
    ask = Hospitals({"s1": samples})
    (summary,) = figures_of(ask)["sites"].values()
    suv = [20.0 * sample.image[0][sample.image[1] > 0].astype(np.float64) for sample in samples]
    volumes = [9 * (1 + k % 4) * 0.064 for k in range(30)]
    assert summary["suv_mean"] == pytest.approx(np.mean([each.mean() for each in suv]))
    assert summary["suv_p95"] == pytest.approx(np.mean([np.percentile(each, 95) for each in suv]))
    weights = np.concatenate([np.full(each.size, 1 / each.size) for each in suv])
    spread = np.sqrt(np.cov(np.concatenate(suv), aweights=weights, ddof=0))
    assert summary["suv_sd"] == pytest.approx(spread)
    assert (summary["tumour_ml"], summary["nodes"]) == (pytest.approx(np.mean(volumes)), 1.5)
    assert summary["tumour_sd_ml"] == pytest.approx(np.std(volumes, ddof=1))
    assert summary["missing"]["age_years"] == np.mean([s.clinical["age_years"] is None for s in samples])
    assert summary["pet_spacing_mm"] is None  # these samples do not know theirs
    assert (summary["patients"], summary["events"]) == (40, sum(sample.event for sample in samples))


def test_another_scanners_spacing_is_found() -> None:
    def with_spacing(sites: Cohort, other: float) -> Cohort:
        axes = {name: (4.0, 4.0, 4.0 if name != "s2" else other) for name in sites}
        return {
            name: tuple(replace(s, pet_spacing_mm=axes[name], ct_spacing_mm=(1.0, 1.0, 3.0)) for s in samples)
            for name, samples in sites.items()
        }

    alike = figures_of(Hospitals(with_spacing(cohort(), 4.0)))
    assert alike["sites"]["s1"]["pet_spacing_mm"] == [4.0, 4.0, 4.0]
    assert alike["sites"]["s1"]["ct_spacing_sd_mm"] == [0.0, 0.0, 0.0]
    assert "spacing" not in {finding["code"] for finding in alike["findings"]}
    apart = figures_of(Hospitals(with_spacing(cohort(), 6.0)))
    (found,) = [finding for finding in apart["findings"] if finding["code"] == "spacing"]
    assert found["site"] == "s2"
    assert "PET spacing along z is 6 mm" in found["message"]


def test_time_grids_are_nested() -> None:
    levels = nested_edges(EDGES)
    assert [len(level) for level in levels] == [65, 64, 32, 16, 8, 6, 4, 3, 2]
    for finer, coarser in itertools.pairwise(levels):
        assert set(coarser) <= set(finer)
    assert nested_edges([0.0, 0.4, 2.0]) == [[0.0, 0.5, 1.5, 2.5], [0.0, 0.5, 1.5], [0.0, 1.5]]


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
    for part in (found, found["follow_up"], found["columns"], found["cox"]):
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
    "rare nonsense": ("cox", lambda f: f.update(rare=[77]), "Cox derivatives"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_answer_is_left_out_by_name(name: str) -> None:
    query, change, why = IMPOSSIBLE[name]
    sites = cohort()
    if name == "fewer than its patients":  # somebody must be followed past the last edge
        sites["s1"] = (*sites["s1"], replace(sites["s1"][0], time_days=5000.0, event=0))
    found = figures_of(Hospitals(sites, spoil={"s1": _spoiled(query, change)}))
    part = found if query == "summary" else found[{"survival_counts": "follow_up"}.get(query, query)]
    assert list(part["left_out"]) == ["s1"]
    assert any(each in part["left_out"]["s1"] for each in why.split("|"))
    others = {name: samples for name, samples in sites.items() if name != "s1"}
    ask = Hospitals(others)
    alone = cohort_figures(ask, TASK, sorted(others), EDGES, encoding_of(sites))
    expected = alone if query == "summary" else alone[{"survival_counts": "follow_up"}.get(query, query)]
    for key in expected:
        if key not in ("follow_up", "columns", "cox") or query != "summary":
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
    }
    assert {name for name, part in parts.items() if "reason" in part} == {query}
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
    assert found["follow_up"]["events"] == events
    assert "nan" not in json.dumps(found).lower()
    assert sum("no_events" in line for line in error_lines(found)) == 2 - events


def test_columns_and_regression_are_for_clinical_columns_alone() -> None:
    ask = Hospitals(cohort(), task=replace(TASK, tabular=TabularSettings()))
    found = cohort_figures(ask, ask.task, sorted(ask.sites), EDGES, None)
    assert (found["columns"], found["cox"]) == (None, None)
    assert {query for query, _ in ask.told} == {"summary", "survival_counts"}
    assert found["sites"]["s0"]["missing"] == {}
    only_levels = figures_of(Hospitals(cohort()), CLINICAL[1:])
    assert only_levels["columns"] == {"summaries": {}}


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


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_a_run_writes_one_event_says_errors_goes_on_and_is_otherwise_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the comparison, as for the arms of ``compare``, the weights have the same bits."""
    task, own = make_task((1, 1), epochs=None, steps=1), make_data("a", train=6, test=0)
    weights = []
    for compared in (True, False):
        caplog.clear()
        out = tmp_path / str(compared)
        sites = [Site(name, lambda: own, task, out / name) for name in "ab"]
        for _ in range(2):  # the second time it is finished
            assert run_federation(task, LocalSites(sites), out, evaluate_test=compared)["rounds"] == 2
        events = list(read_events(out / "events.jsonl"))
        kinds = [event["kind"] for event in events]
        assert kinds.count("preflight") == int(compared)
        weights.append(final_weights(out)[0])
        assert ("preflight: b: same_summary: all figures are those of a; check" in caplog.text) is compared
        if compared:
            assert kinds.index("time_bins") < kinds.index("preflight") < kinds.index("round_start")
            figures = events[kinds.index("preflight")]["figures"]
            assert sorted(figures["sites"]) == ["a", "b"]
            assert {found["code"] for found in figures["findings"]} >= {"few_events", "same_summary"}
    assert_equal_bits(*weights)


def test_sites_that_cannot_agree_on_bins_or_columns_are_still_compared(tmp_path: Path) -> None:
    sizes = {"s0": 20, "s1": 20}
    calm = {name: patients(number, size, event=0, clinical={}) for number, (name, size) in enumerate(sizes.items())}
    task = replace(TASK, tabular=TabularSettings(CLINICAL[:1]))
    sites = [Site(n, lambda own=own: SiteData(own), task, tmp_path / n) for n, own in calm.items()]  # type: ignore[misc]
    with pytest.raises(InputError):  # as a run would say
        sites[0].handle(Instruction("statistics", "run", 0, 1, {"query": "clinical"}))
    found = preflight(task, LocalSites(sites), tmp_path)
    assert "no events" in found["follow_up"]["reason"]
    assert "age_years" in found["cox"]["reason"]
    codes = {(each["code"], each["severity"]) for each in found["findings"]}
    assert {("no_events", "error"), ("column_absent", "error")} <= codes
