"""The comparison of sites before training: every finding, where it ends, and a consortium with nothing to say."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.preflight import (
    Finding,
    PreflightSettings,
    SiteSummary,
    _two_proportions,
    findings,
)
from adamss_fl.federation.statistics.site_summary import median_follow_up


def site(number: int, **changed: Any) -> SiteSummary:
    """One of a few sites that differ as hospitals do, and no more."""
    usual = SiteSummary(
        site=f"site-{number}",
        patients=80 + number,
        events=24 + number,
        follow_up_days=1200.0 + 30 * number,
        pet_spacing_mm=(4.0, 4.0, 3.2 + 0.1 * number),
        pet_spacing_sd_mm=(0.1, 0.1, 0.2),
        ct_spacing_mm=(1.0, 1.0, 2.5),
        ct_spacing_sd_mm=(0.1, 0.1, 0.5),
        suv_mean=0.9 + 0.05 * number,
        suv_sd=1.5,
        suv_p95=3.0 + 0.1 * number,
        tumour_ml=20.0 + number,
        tumour_sd_ml=15.0,
        nodes=1.5,
        missing={"age": 0.0, "hpv": 0.3},
    )
    return replace(usual, **changed)


def three(**changed: Any) -> list[SiteSummary]:
    """Three sites, the second of them changed."""
    return [site(0), site(1, **changed), site(2)]


def only(found: tuple[Finding, ...], code: str) -> Finding:
    assert [(each.code, each.site) for each in found] == [(code, "site-1")]
    assert "\n" not in found[0].message + found[0].remedy
    assert found[0].remedy
    return found[0]


@pytest.mark.parametrize("sites", [1, 2, 3, 4, 7])
def test_a_consortium_of_like_sites_has_nothing_to_say(sites: int) -> None:
    assert findings([site(number) for number in range(sites)]) == ()


@pytest.mark.parametrize(
    ("changed", "code", "severity", "says"),
    [
        ({"events": 0}, "no_events", "error", "none of 81 patients"),
        ({"patients": 30, "events": 9}, "few_events", "warning", "9 events, fewer than 10"),
        ({"events": 60}, "event_fraction", "warning", "74% have an event, 31% elsewhere"),
        ({"follow_up_days": 300.0}, "short_follow_up", "warning", "300 days, 1230 elsewhere"),
        ({"pet_spacing_mm": (4.0, 4.0, 5.0)}, "spacing", "warning", "PET spacing along z is 5 mm, +47% from"),
        ({"ct_spacing_mm": (0.5, 0.5, 2.5)}, "spacing", "warning", "CT spacing along x is 0.5 mm, -50% from"),
        ({"suv_mean": 4.0}, "suv_scale", "warning", "SUV mean of 4, 4 times"),
        ({"suv_p95": 1.2}, "suv_scale", "warning", "SUV 95th percentile of 1.2, 0.4 times"),
        ({"suv_mean": 950.0, "suv_p95": 3100.0}, "suv_scale", "error", "looks like Bq/ml"),
        ({"suv_mean": 0.00095, "suv_p95": 0.0031}, "suv_scale", "error", "dose or weight in another unit"),
        ({"suv_mean": 66.5, "suv_p95": 99.0}, "suv_scale", "error", "about a body weight in kg"),
        ({"suv_mean": 0.0136, "suv_p95": 0.0443}, "suv_scale", "error", "about a body weight in kg"),
        ({"tumour_ml": 90.0}, "tumour_volume", "warning", "90 ml, 4.1 times the usual"),
        ({"tumour_ml": 4.0}, "tumour_volume", "warning", "4 ml, 0.2 times the usual"),
        ({"tumour_ml": None, "tumour_sd_ml": None, "nodes": None}, "no_masks", "warning", "no patient has a mask"),
        ({"missing": {"age": 0.0, "hpv": 1.0}}, "column_absent", "warning", "column 'hpv' has no value"),
        ({"missing": {"age": 0.0}}, "column_absent", "warning", "column 'hpv' has no value"),
        ({"missing": {"age": 0.0, "hpv": 0.6}}, "column_sparse", "warning", "'hpv' is missing in 60%"),
    ],
)
def test_what_is_wrong_at_one_site_is_said_of_it_alone(
    changed: dict[str, Any], code: str, severity: str, says: str
) -> None:
    found = only(findings(three(**changed)), code)
    assert found.severity == severity
    assert says in found.message


@pytest.mark.parametrize(
    "changed",
    [
        {"patients": 33, "events": 10},
        {"events": 36},
        {"follow_up_days": 615.0},
        {"follow_up_days": None},
        {"pet_spacing_mm": (4.0, 4.0, 4.2)},
        {"ct_spacing_mm": (0.76, 1.24, 2.5)},
        {"suv_mean": 1.99, "suv_p95": 6.3},
        {"suv_mean": 0.5, "suv_p95": 1.6},
        {"tumour_ml": 62.0},
        {"tumour_ml": 7.0},
        {"missing": {"age": 0.5, "hpv": 0.5}},
    ],
)
def test_what_is_not_far_enough_is_not_said(changed: dict[str, Any]) -> None:
    assert findings(three(**changed)) == ()


def test_a_site_with_fewer_patients_than_a_batch_is_an_error() -> None:
    sites = three(patients=7, events=2)
    assert [each.code for each in findings(sites, PreflightSettings(batch_size=7))] == ["few_events"]
    first, second = findings(sites, PreflightSettings(batch_size=8))
    assert (first.code, first.severity, second.code) == ("small_site", "error", "few_events")
    assert "7 patients do not fill a batch of 8" in first.message


def test_one_folder_read_by_two_sites_is_found() -> None:
    found = only(findings([site(0), replace(site(0), site="site-1"), site(2)]), "same_summary")
    assert found.severity == "error"
    assert "site-0" in found.message


def test_what_no_site_has_is_an_error_at_every_site() -> None:
    bare = {"tumour_ml": None, "tumour_sd_ml": None, "nodes": None, "missing": {"age": 0.0, "hpv": 1.0}}
    found = findings([site(number, **bare) for number in range(3)])
    assert {(each.code, each.severity) for each in found} == {("no_masks", "error"), ("column_absent", "error")}
    assert len(found) == 6


def test_errors_come_first_and_then_the_order_of_the_sites() -> None:
    found = findings([site(0, tumour_ml=200.0), site(1, events=0), site(2, follow_up_days=90.0)])
    assert [each.code for each in found] == ["no_events", "tumour_volume", "short_follow_up"]


@pytest.mark.parametrize("changed", [{"suv_mean": 4700.0, "suv_p95": 16000.0}])
@pytest.mark.parametrize("sites", [1, 2, 3])
def test_pet_in_bq_per_ml_is_found_with_any_number_of_sites(changed: dict[str, Any], sites: int) -> None:
    all_sites = [site(1, **changed), site(0), site(2)][:sites]
    found = only(findings(all_sites), "suv_scale")
    assert "Bq/ml" in found.message
    if sites == 3:  # where the right one is the only one of its kind too
        wrong = findings([site(1, **changed), site(2, **changed), site(0)])
        assert {each.site for each in wrong if each.code == "suv_scale"} == {"site-1", "site-2"}


def test_of_two_sites_that_differ_neither_is_the_usual_one() -> None:
    found = findings([site(0, suv_mean=0.3), site(1)])
    assert [(each.code, each.site) for each in found] == [("suv_scale", "site-0"), ("suv_scale", "site-1")]


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_fractions_are_compared_by_the_chi_squared_test(patients: int, others: int, data: st.DataObject) -> None:
    """The two-proportion z-test is Pearson's chi-squared test of the two by two table."""
    from scipy.stats import chi2_contingency

    events, theirs = data.draw(st.integers(0, patients)), data.draw(st.integers(0, others))
    found = _two_proportions(events, patients, theirs, others)
    if 0 < events + theirs < patients + others:
        table = [[events, patients - events], [theirs, others - theirs]]
        assert found == pytest.approx(chi2_contingency(table, correction=False).pvalue, rel=1e-9, abs=1e-300)
    else:
        assert found == 1


@pytest.mark.parametrize("seed", range(4))
def test_median_follow_up_is_that_of_lifelines_to_half_a_month(seed: int) -> None:
    from lifelines import KaplanMeierFitter

    rng = np.random.default_rng(seed)
    time, event = rng.uniform(100, 3000, 90).round(), rng.random(90) < 0.4
    found = median_follow_up(time, event)
    assert found is not None
    assert abs(found - KaplanMeierFitter().fit(time, ~event).median_survival_time_) <= 15
    assert found % 30 == 0


def test_follow_up_that_never_ends_has_no_median() -> None:
    assert median_follow_up([10, 20, 30], [1, 1, 1]) is None
    assert median_follow_up([10, 700, 800], [0, 1, 1]) is None
    assert median_follow_up([], []) is None


# --- on the wire ------------------------------------------------------------------------------------------------------


UNKNOWN: dict[str, Any] = dict.fromkeys(
    ("pet_spacing_mm", "pet_spacing_sd_mm", "ct_spacing_mm", "ct_spacing_sd_mm", "suv_mean", "suv_sd", "suv_p95")
)


def test_what_a_site_does_not_know_is_no_finding_of_it_or_of_others() -> None:
    assert findings(three(**UNKNOWN)) == ()
    assert findings([site(number, **UNKNOWN) for number in range(3)]) == ()
    bare = [site(0, **UNKNOWN), site(1, suv_p95=16000.0, suv_mean=4700.0), site(2, **UNKNOWN)]
    assert [each.code for each in findings(bare)] == ["suv_scale"]


@pytest.mark.parametrize("others", [[], [site(0), site(2)]])
def test_suv_at_the_clip_are_no_suv(others: list[SiteSummary]) -> None:
    clipped = site(1, suv_mean=19.5, suv_p95=20.0)
    found = only(findings([clipped, *others], PreflightSettings(largest_suv=20.0)), "suv_scale")
    assert (found.severity, "Bq/ml" in found.message) == ("error", True)


def test_a_run_without_segmentation_does_not_miss_masks() -> None:
    bare = [site(number, tumour_ml=None, tumour_sd_ml=None, nodes=None) for number in range(2)]
    assert findings(bare, PreflightSettings(masks=False)) == ()


@pytest.mark.parametrize("changed", [{}, UNKNOWN, {"tumour_ml": None, "tumour_sd_ml": None, "nodes": None}])
def test_a_summary_travels_as_json_without_loss(changed: dict[str, Any]) -> None:
    summary = site(1, **changed)
    assert SiteSummary.from_plain(json.loads(json.dumps(summary.plain()))) == summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"events": 90}, "90 events of 81 patients"),
        ({"patients": 0, "events": 0}, "0 events of 0 patients"),
        ({"patients": 80.5}, "not a whole number"),
        ({"pet_spacing_mm": [4.0, 4.0]}, "pet_spacing_mm: shape"),
        ({"ct_spacing_mm": [1.0, 1.0, 0.0]}, "negative, 0 or not finite"),
        ({"suv_mean": None}, "suv_mean, suv_sd and suv_p95 go together"),
        ({"suv_mean": "1"}, "suv_mean: not an array of numbers"),
        ({"suv_mean": 1e12}, "too large"),
        ({"pet_spacing_mm": None}, "pet_spacing go together"),
        ({"suv_mean": 0.0}, "negative, 0 or not finite"),
        ({"suv_p95": float("nan")}, "suv_p95: a value is not finite"),
        ({"tumour_ml": -1.0}, "negative, 0 or not finite"),
        ({"tumour_ml": None}, "go together"),
        ({"missing": {"age": 1.5}}, "outside 0 to 1"),
        ({"missing": [0.5]}, "missing a mapping"),
        ({"site": 3}, "site must be a text"),
        ({"patient": "A-17"}, "'patient' is unknown"),
    ],
)
def test_summaries_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SiteSummary.from_plain(site(1).plain() | change)


def test_no_summary_or_two_of_one_site_are_refused() -> None:
    for summaries in ([], [site(0), site(0)]):
        with pytest.raises(InputError, match="one of each site"):
            findings(summaries)
