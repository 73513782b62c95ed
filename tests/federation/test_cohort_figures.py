"""Figures on all sites' training patients before training: against lifelines on the pooled patients, and by hand."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cohort_hospitals import (
    CLINICAL,
    EDGES,
    TASK,
    Cohort,
    Hospitals,
    cohort,
    figures_of,
    patients,
    pooled,
)
from in_process import assert_equal_bits
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction
from adamss_fl.federation.run import preflight, run_federation
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.time_grids import nested_edges
from adamss_fl.radiomics import TabularSettings


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


def encoded(table: pd.DataFrame) -> pd.DataFrame:
    """Age, HPV and sex as the network is given them, without the columns that are a combination of others."""
    age, hpv = table.age_years, table.hpv.astype(float)
    return pd.DataFrame(
        {
            "age_years": ((age - age.mean()) / age.std(ddof=0)).fillna(0.0),
            "age_years.missing": age.isna().astype(float),
            "hpv=1": (hpv == 1).astype(float),
            "hpv.missing": hpv.isna().astype(float),
            "sex=F": (table.sex == "F").astype(float),
        }
    )


@pytest.mark.parametrize(("figure", "strata"), [("cox", ["site"]), ("cox_one_baseline", None)])
def test_hazard_ratios_are_those_of_lifelines(figure: str, strata: list[str] | None) -> None:
    from lifelines import CoxPHFitter

    ask = Hospitals(cohort())
    found = figures_of(ask)[figure]
    table = pooled(ask.sites)
    x = encoded(table)
    known = pd.concat([x, table[["time", "event", "site"]] if strata else table[["time", "event"]]], axis=1)
    fitter = CoxPHFitter().fit(known, "time", "event", strata=strata, fit_options={"precision": 1e-12})
    assert list(found["covariates"]) == list(x.columns)
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
    assert f"{table.age_years.std(ddof=0):.4g}" in found["covariates"]["age_years"]["per"]
    assert (found["events"], found["sites"], found["converged"]) == (int(table.event.sum()), ["s0", "s1", "s2"], True)
    if figure == "cox":
        assert set(found["covariates_left_out"]) == {"sex=M", "sex.missing"}
    else:
        assert found["times"] == 64


def test_columns_are_those_of_the_pooled_patients() -> None:
    ask = Hospitals(cohort())
    (age,) = figures_of(ask)["columns"]["summaries"].values()
    values = pooled(ask.sites).age_years.dropna()
    assert age["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert age["sd"] == pytest.approx(values.std(), rel=1e-12)
    assert age["missing"] == 260 - values.size
    cells = [-np.inf, *age["edges"], np.inf]
    assert list(age["histogram"]) == np.histogram(values, cells)[0].tolist()


@pytest.mark.parametrize("least", [1, 5])
def test_quartiles_lie_where_those_of_the_pooled_patients_do(least: int) -> None:
    ask = Hospitals(cohort(), dict.fromkeys(("s0", "s1", "s2"), least))
    found = figures_of(ask)["columns"]["quartiles"]["age_years"]["levels"]
    values = pooled(ask.sites).age_years.dropna()
    assert [each["level"] for each in found] == [0.25, 0.5, 0.75]
    for each in found:
        exact = np.quantile(values, each["level"], method="inverted_cdf")
        assert abs(exact - each["value"]) <= each["half_width"]
        assert each["half_width"] < (0.1 if least == 1 else 0.5) * values.std()
    assert [query for query, _ in ask.told].count("columns") <= 3 * (3 if least == 1 else 9)


def test_a_site_that_falls_silent_costs_the_quartiles_alone() -> None:
    def silent(query: str, figures: dict[str, Any]) -> dict[str, Any]:
        if query == "columns" and len(figures["sums"]["age_years"]["edges"]) != 9:
            del figures["sums"]
        return figures

    found = figures_of(Hospitals(cohort(), spoil={"s1": silent}))["columns"]
    assert "does not answer now" in found["quartiles"]["age_years"]["reason"]
    assert found["summaries"]["age_years"]["n"] > 200


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
