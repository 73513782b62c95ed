"""The report on the hospitals before training: what pooled patients say, a reason for what is lacking, older runs."""

import html
import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation.cohort_hospitals import CLINICAL, Cohort, Hospitals, cohort, figures_of, patients, pooled
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from synthetic import make_data, make_task
from synthetic_run import events, write_events

from adamss_fl.errors import InputError
from adamss_fl.evaluation.report import build_report
from adamss_fl.evaluation.report_cohort_clinical import columns_part, cox_part, hazard_ratio
from adamss_fl.evaluation.report_cohort_part import measured, percent
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.site import Site

SPACING = {"s0": (4.07, 4.07, 5.0), "s1": (4.0, 4.0, 4.0), "s2": (5.5, 5.5, 3.0)}
Figures = dict[str, Any]


def scanned(sites: Cohort) -> Cohort:
    """With voxel sizes, and one hospital whose PET is of another unit."""
    return {
        name: tuple(replace(s, pet_spacing_mm=SPACING[name], image=s.image * (60 if name == "s2" else 1)) for s in own)
        for name, own in sites.items()
    }


def page_of(run: Path, figures: Figures | None, rounds: int = 0) -> str:
    """The report of a run whose event ``preflight`` has these figures; None for a run without one.

    rounds : with events of training, which are drawn.
    """
    run.mkdir(exist_ok=True)
    site = {"patients": 20, "events": 9, "c_index": 0.61, "comparable_pairs": 80, "dsc": {"tumour": 0.7, "nodes": 0.6}}
    test = site | {"sites": {"s0": site, "s1": site}}
    (run / "metrics.json").write_text(json.dumps({"name": "run", "sites": ["s0", "s1"], "test": test}))
    compared = [] if figures is None else [{"kind": "preflight", "round": 0, "figures": figures}]
    write_events(run / "events.jsonl", [*compared, *(events(("s0", "s1"), rounds) if rounds else [])])
    return build_report(run).read_text()


def section(page: str) -> str:
    found = re.search(r'<section id="cohort">.*?</section>', page, flags=re.DOTALL)
    assert found is not None
    return found[0]


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def table(page: str, title: str) -> dict[str, list[str]]:
    """Row name -> cells of the table under a title; the columns under ''."""
    part = section(page).partition(f"<h3>{title}</h3>")[2].partition("<h3>")[0]
    heads = re.findall(r"<th[^>]*>(.*?)</th>", part)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr><td>.*?</tr>", part)]
    found = {words(row[0]): [words(cell) for cell in row[1:]] for row in rows}
    return {"": [words(head) for head in heads], **found}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Figures, str]:
    """Three hospitals without a minimum cell count: their patients, the event's figures, and the page."""
    sites = scanned(cohort())
    figures = json.loads(json.dumps(figures_of(Hospitals(sites))))
    return sites, figures, page_of(tmp_path_factory.mktemp("cohort"), figures, rounds=2)


def changed(told: tuple[Cohort, Figures, str], change: Callable[[Figures], object]) -> Figures:
    figures = deepcopy(told[1])
    change(figures)
    return figures


def test_the_section_says_what_it_is_between_the_results_and_the_methods(told: tuple[Cohort, Figures, str]) -> None:
    sites, _, page = told
    everyone = pooled(sites)
    order = [">Results, overall", ">Figures<", '<section id="cohort">', ">How these figures were made<"]
    assert [page.count(mark) for mark in order] == [1, 1, 1, 1]
    assert sorted(order, key=page.index) == order
    text = words(section(page))
    assert f"{len(everyone)} training patients of 3 hospitals, {everyone.event.sum()} with an event" in text
    assert "no row of a patient left one" in text
    assert not any(sample.patient_id in page for own in sites.values() for sample in own)


def test_hospitals_stand_side_by_side_with_the_figures_of_their_patients(told: tuple[Cohort, Figures, str]) -> None:
    sites, _, page = told
    shown = table(page, "Side by side")
    assert list(shown) == ["", *sites]
    for name, own in sites.items():
        events_ = sum(sample.event for sample in own)
        cells = dict(zip(shown[""][1:], shown[name], strict=True))
        assert cells["Patients"] == str(len(own))
        assert cells["Events"] == f"{events_} ({100 * events_ / len(own):.0f} %)"
        assert cells["PET voxel, mm"] == " × ".join(f"{axis:g}" for axis in SPACING[name])
        assert cells["CT voxel, mm"] == "—"
        suv = np.mean([20.0 * sample.image[0][sample.image[1] > 0].mean() for sample in own])
        assert float(cells["SUV mean"]) == pytest.approx(suv, rel=0.006)
        tumour = np.mean([np.count_nonzero(sample.mask[0]) * 0.064 for sample in own])
        assert float(cells["Tumour, mL"]) == pytest.approx(tumour, rel=0.006)
        for column in ("age_years", "hpv"):
            share = np.mean([sample.clinical[column] is None for sample in own])
            assert f"{column} {100 * share:.0f} %" in cells["Missing clinical values"]
        assert "sex" not in cells["Missing clinical values"]


def test_findings_are_listed_with_severity_hospital_and_remedy(told: tuple[Cohort, Figures, str]) -> None:
    _, figures, page = told
    assert {(found["severity"], found["code"]) for found in figures["findings"]} == {
        ("error", "suv_scale"),
        ("warning", "spacing"),
    }
    text = words(section(page))
    assert "There was 1 error and 1 warning. An error should be mended before training" in text
    for found in figures["findings"]:
        kind, message, remedy = found["severity"].capitalize(), found["message"], found["remedy"]
        row = f"{kind} {found['site']} {message[0].upper()}{message[1:]} {remedy[0].upper()}{remedy[1:]}"
        assert row in text


def test_nothing_stood_out_is_said_where_hospitals_are_alike(tmp_path: Path) -> None:
    figures = figures_of(Hospitals(cohort((60, 60))))
    assert figures["findings"] == []
    text = words(section(page_of(tmp_path, figures)))
    assert "Nothing stood out at any of these hospitals." in text
    assert "What stood out" not in text


def test_survival_and_numbers_at_risk_are_those_of_the_pooled_patients(told: tuple[Cohort, Figures, str]) -> None:
    """Times lie on every 50 days, and the grid's steps end half a day after."""
    sites, figures, page = told
    everyone, shown = pooled(sites), table(page, "Event-free survival")
    fitted = KaplanMeierFitter().fit(everyone.time, everyone.event)
    edges = np.array(figures["follow_up"]["all"]["edges_days"])
    assert shown["Start"][:2] == [str(len(everyone)), "1.000"]
    assert len(shown) == 7
    for when, (at_risk, survival, interval, bounds) in list(shown.items())[2:]:
        number, unit = when.split()
        near = float(number) * {"years": 365.25, "months": 365.25 / 12}[unit]
        places = np.flatnonzero(np.abs(edges - near) < 25)
        day = next(day for day in edges[places] if int(at_risk) == (everyone.time >= day - 0.5).sum())
        assert int(at_risk) > 0
        assert float(survival) == pytest.approx(fitted.predict(day), abs=6e-4)
        low, high = fitted.confidence_interval_survival_function_.loc[:day].iloc[-1]
        assert [float(each) for each in interval.split(" to ")] == pytest.approx([low, high], abs=6e-4)
        least, most = (float(each) for each in bounds.split(" to "))
        assert least <= float(survival) == most


def test_the_log_rank_test_and_median_follow_up_are_those_of_the_pooled_patients(
    told: tuple[Cohort, Figures, str],
) -> None:
    sites, _, page = told
    everyone, text = pooled(sites), words(section(page))
    test = multivariate_logrank_test(everyone.time, everyone.site, everyone.event)
    assert f"p = {test.p_value:.3f}, χ² {test.test_statistic:.1f}, 2 degrees of freedom" in text
    reverse = KaplanMeierFitter().fit(everyone.time, 1 - everyone.event)
    followed = re.search(r"\(reverse Kaplan-Meier\): ([\d.]+) years", text)
    assert followed is not None
    step_and_rounding = (50 + 1) / 365.25 + 0.05
    assert float(followed[1]) == pytest.approx(reverse.median_survival_time_ / 365.25, abs=step_and_rounding)


@pytest.mark.parametrize(("p", "said"), [(0.04, "by more than chance explains"), (0.3, "chance may explain how far")])
def test_the_verdict_between_hospitals_follows_p(
    told: tuple[Cohort, Figures, str], tmp_path: Path, p: float, said: str
) -> None:
    figures = changed(told, lambda f: f["follow_up"]["log_rank_between_sites"].update(p_value=p))
    assert said in words(section(page_of(tmp_path, figures)))


def test_clinical_columns_hold_mean_spread_and_quartiles_of_the_pooled_patients(
    told: tuple[Cohort, Figures, str],
) -> None:
    sites, _, page = told
    ages = pooled(sites).age_years
    values = ages.dropna()
    n, missing, mean, sd, *quartiles = table(page, "Clinical columns")["age_years"]
    assert (n, missing) == (str(values.size), f"{ages.isna().sum()} ({100 * ages.isna().mean():.0f} %)")
    assert float(mean) == pytest.approx(values.mean(), abs=0.06)
    assert float(sd) == pytest.approx(values.std(), abs=0.006)
    for level, cell in zip((0.25, 0.5, 0.75), quartiles, strict=True):
        value, low, high = (float(each) for each in re.findall(r"[\d.]+", cell))
        exact = np.quantile(values, level, method="inverted_cdf")
        assert low <= exact <= high
        assert low <= value <= high < low + values.std() / 4


@given(
    st.floats(-1e4, 1e4),
    st.floats(1e-6, 1e3),
)
def test_the_bounds_of_a_quartile_are_rounded_outwards(value: float, half_width: float) -> None:
    level = {"level": 0.5, "value": value, "half_width": half_width, "privacy_limit": False}
    summary = {"n": 9, "missing": 0, "averaged": 9, "mean": value, "sd": 1.0}
    part = columns_part({"summaries": {"a": summary}, "quartiles": {"a": {"levels": [level]}}})
    assert part is not None
    assert part.table is not None
    cell = part.table.rows[0].cells[5].replace("−", "-")
    shown, low, high = (float(each) for each in re.findall(r"-?[\d.]+", cell))
    slack = 1e-9 * (1 + abs(value))
    assert low - slack <= value - half_width
    assert value + half_width <= high + slack
    assert high - low <= 5 * half_width
    assert low - slack <= shown <= high + slack


def test_hazard_ratios_are_lifelines_stratified_by_hospital_beside_those_of_one_baseline(
    told: tuple[Cohort, Figures, str], tmp_path: Path
) -> None:
    sites, _, page = told
    everyone = pooled(sites)
    age, hpv = everyone.age_years, everyone.hpv.astype(float)
    x = everyone[["time", "event", "site"]].assign(
        age=((age - age.mean()) / age.std(ddof=0)).fillna(0.0),
        unknown_age=age.isna().astype(float),
        hpv=(hpv == 1).astype(float),
        unknown_hpv=hpv.isna().astype(float),
        sex=(everyone.sex == "F").astype(float),
    )
    fitted = CoxPHFitter().fit(x, "time", "event", strata=["site"]).summary
    names = [f"age_years, per standard deviation of {age.std(ddof=0):.4g}"]
    names += ["age_years missing", "hpv = 1", "hpv missing", "sex = F"]
    one = changed(told, lambda f: None)["cox"]
    for each in one["covariates"].values():
        each.update(hazard_ratio=2.5, ci_low=0.04, ci_high=123.4, p=0.0625)
    del one["covariates"]["sex=F"]
    one |= {"times": 41, "events": 77}
    for figures in (one, None):
        page = page_of(tmp_path, changed(told, lambda f, figures=figures: f.update(cox_one_baseline=figures)))
        shown = table(page, "Cox regression")
        assert list(shown)[1:] == names
        for name, row in zip(names, fitted.itertuples(), strict=True):
            ratio, low, high = (getattr(row, f"_{place}") for place in (2, 6, 7))
            p = "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
            assert shown[name][:2] == [f"{ratio:.2f} ({low:.2f} to {high:.2f})", p]
        both = [["—", "—"] if name == "sex = F" else ["2.50 (0.0400 to 123)", "0.062"] for name in names]
        assert [shown[name][2:] for name in names] == (both if figures else [[]] * 5)
    text = words(section(page_of(tmp_path, changed(told, lambda f: f.update(cox_one_baseline=one)))))
    assert "(77 events, on a grid of 41 times)" in text
    assert "sex = M (does not vary inside the sites, or is a combination of the others)" in text


PARTS = {
    "summary": "Side by side",
    "survival_counts": "Event-free survival",
    "columns": "Clinical columns",
    "cox": "Cox regression",
}


@pytest.mark.parametrize("query", PARTS)
def test_a_part_that_fails_gives_its_reason_in_its_place(tmp_path: Path, query: str) -> None:
    ask = Hospitals(cohort((40, 40)))
    ask.fails = {query}
    page = page_of(tmp_path, figures_of(ask) | {"cox_one_baseline": None})
    assert section(page).count("No table: ") == 1
    assert table(page, PARTS[query]) == {"": []}
    part = section(page).partition(f"<h3>{PARTS[query]}</h3>")[2].partition("<h3>")[0]
    assert "No table: statistics: 0 of the 1 sites needed gave a usable reply." in words(part)
    assert ("cannot be said" in words(section(page))) == (query == "summary")
    assert "Nothing stood out" not in section(page) or query != "summary"


def test_a_hospital_that_is_left_out_is_named_under_every_table(tmp_path: Path) -> None:
    sites = {**cohort(), "tiny": patients(9, 4)}
    page = page_of(tmp_path, figures_of(Hospitals(sites, {"tiny": 5})) | {"cox_one_baseline": None})
    told = "Without tiny (fewer training patients than its minimum cell count)."
    assert words(section(page)).count(told) == 4
    assert "of 3 hospitals" in section(page)


def test_parts_that_were_not_asked_for_are_not_there(told: tuple[Cohort, Figures, str], tmp_path: Path) -> None:
    figures = changed(told, lambda f: f.update(columns=None, cox=None, cox_one_baseline=None))
    page = page_of(tmp_path, figures)
    assert re.findall(r"<h3>(.*?)</h3>", section(page)) == ["Side by side", "Event-free survival"]
    no_continuous = changed(told, lambda f: f.update(columns={"summaries": {}, "quartiles": {}}))
    assert "<h3>Clinical columns</h3>" not in page_of(tmp_path, no_continuous)
    assert "<h3>Cox regression</h3>" in page_of(tmp_path, no_continuous)


def test_an_older_run_lacks_columns_and_no_more(told: tuple[Cohort, Figures, str], tmp_path: Path) -> None:
    """Events of before there were quartiles, one baseline, and bounds of the curve."""

    def older(figures: Figures) -> None:
        figures.pop("cox_one_baseline", None)
        del figures["columns"]["quartiles"], figures["follow_up"]["all"]["survival_low"]

    page = page_of(tmp_path, changed(told, older))
    assert table(page, "Clinical columns")[""] == ["Column", "With a value", "Missing", "Mean", "sd"]
    assert table(page, "Event-free survival")[""][-1] == "95 % interval"
    assert table(page, "Cox regression")[""][1:] == ["Inside hospitals: hazard ratio (95 % interval)", "p"]
    assert not re.search(r"\b(nan|None|null)\b|uartile|uaranteed", words(section(page)))


def test_quartiles_that_are_lacking_say_why(told: tuple[Cohort, Figures, str], tmp_path: Path) -> None:
    figures = changed(told, lambda f: f["columns"]["quartiles"].update(age_years={"reason": "a site fell silent"}))
    page = page_of(tmp_path, figures)
    assert table(page, "Clinical columns")["age_years"][4:] == ["—", "—", "—"]
    assert "No quartiles: age_years (a site fell silent)." in words(section(page))


def test_what_a_minimum_cell_count_keeps_back_is_said_under_the_columns() -> None:
    summary = {"n": 90, "missing": 7, "missing_hidden": 1, "averaged": 60, "mean": 60.0, "sd": 9.0}
    level = {"level": 0.5, "value": 61.0, "half_width": 3.0, "privacy_limit": True}
    for hidden, said in ((summary, 3), (summary | {"missing_hidden": 0, "averaged": 90}, 1)):
        part = columns_part({"summaries": {"age": hidden}, "quartiles": {"age": {"levels": [level]}}})
        assert part is not None
        assert part.table is not None
        notes = ("Missing in age: not counted at hospitals", "hospital withholds its own: age (60)", "bounds for age")
        assert sum(note in part.table.note for note in notes) == said


def test_a_fit_that_has_not_converged_says_so() -> None:
    each = {"per": "1 against 0", "hazard_ratio": 2.0, "ci_low": 1.0, "ci_high": 4.0, "p": 0.05}
    for converged in (True, False):
        part = cox_part({"covariates": {"a=1": each}, "events": 9, "converged": converged}, None)
        assert part is not None
        assert part.table is not None
        assert ("has not converged" in part.table.note) is not converged


def test_regressions_that_are_lacking_say_why() -> None:
    both = cox_part({"reason": "Cox regression: no events on the grid", "left_out": {"b": "why"}}, {"reason": "other"})
    assert both is not None
    assert both.reason == "across hospitals (other); inside hospitals (no events on the grid)"
    assert both.left_out == "Inside hospitals: without b (why)."
    alike = cox_part({"reason": "too few"}, {"reason": "too few"})
    assert alike is not None
    assert (alike.table, alike.reason) == (None, "too few")
    assert cox_part(None, None) is None


def test_a_run_of_one_hospital_and_one_event_has_no_nan_and_no_comparison(tmp_path: Path) -> None:
    own = tuple(replace(s, event=int(k == 3), time_days=float(40 * k + 50)) for k, s in enumerate(patients(0, 20)))
    page = page_of(tmp_path, figures_of(Hospitals({"s0": own}), CLINICAL))
    text = words(section(page))
    assert "The hospital before training" in text
    assert "20 training patients of 1 hospital, 1 with an event" in text
    assert "og-rank" not in text
    assert not re.search(r"\b(nan|inf|None|null)\b", text)
    assert "No table: " in text


def test_text_from_hospitals_is_escaped(told: tuple[Cohort, Figures, str], tmp_path: Path) -> None:
    def hostile(figures: Figures) -> None:
        figures["findings"][0]["message"] = "<script>x</script>"
        figures["sites"]["s0"]["missing"] = {"<b>": 0.5}
        figures["left_out"] = {"<i>": "<u>"}

    page = page_of(tmp_path, changed(told, hostile))
    assert not re.search(r"<(script|b|i|u)>", page)
    assert "&lt;script&gt;" in page


def test_a_run_without_the_event_has_no_such_section(tmp_path: Path) -> None:
    page = page_of(tmp_path, None)
    assert 'id="cohort"' not in page
    assert "before training" not in words(page)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["sites"]["s0"].pop("events"),
        lambda f: f.pop("follow_up"),
        lambda f: f["columns"]["summaries"]["age_years"].pop("averaged"),
        lambda f: f["cox"]["covariates"]["hpv=1"].pop("p"),
        lambda f: f["follow_up"]["all"]["ci_low"].clear(),
    ],
)
def test_an_event_that_lacks_something_is_refused_in_one_line(
    told: tuple[Cohort, Figures, str], tmp_path: Path, change: Callable[[Figures], object]
) -> None:
    with pytest.raises(InputError, match=r"events\.jsonl: event 'preflight' lacks something") as error:
        page_of(tmp_path, changed(told, change))
    assert "\n" not in str(error.value)


def test_a_federation_that_ran_is_reported_with_its_hospitals_and_its_outlines(tmp_path: Path) -> None:
    task = make_task((1, 1), epochs=None, steps=1)
    data = {"a": make_data("a", seed=1), "b": make_data("b", seed=2)}
    sites = [Site(name, lambda own=own: own, task, tmp_path / name) for name, own in data.items()]  # type: ignore[misc]
    metrics = run_federation(task, LocalSites(sites), tmp_path)
    page = build_report(tmp_path).read_text()
    assert [*table(page, "Side by side")][1:] == ["a", "b"]
    found = metrics["test"]["masks_by_patient"]["tumour"]
    assert f"Primary tumour {found['dsc_mean']:.3f} {found['patients']}" in words(page)


# --- numbers ----------------------------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e9))
def test_measured_numbers_keep_three_digits_and_have_no_exponent(value: float) -> None:
    text = measured(value)
    assert "e" not in text
    assert abs(float(text.replace(",", "")) - value) <= 0.0051 * value
    assert measured(-value) == f"−{text}"


def test_numbers_that_would_mislead_by_rounding_do_not() -> None:
    assert [percent(share) for share in (0.0, 0.001, 0.19, 0.999, 1.0)] == ["0 %", "< 1 %", "19 %", "> 99 %", "100 %"]
    assert [measured(value) for value in (None, 0.0, 3.0, 12345.6)] == ["—", "0", "3.00", "12,346"]
    assert [hazard_ratio(value) for value in (0.00123, 1.005, 99.9, 1234.0)] == ["0.00123", "1.00", "99.90", "1,234"]
