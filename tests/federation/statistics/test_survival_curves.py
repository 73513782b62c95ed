"""Curves and log-rank tests from counts per cell, against lifelines, scikit-survival and the textbook's sums."""

import json
import warnings
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.log_rank import grid_log_rank
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts, survival_counts
from adamss_fl.federation.statistics.survival_curves import censoring_curve, grid_kaplan_meier, median_follow_up
from adamss_fl.survival.curves import kaplan_meier

PATIENTS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40)
COARSE = (0.0, 200.0, 450.0, 800.0, 1300.0, 5000.0)


def cohort(seed: int, count: int = 90, groups: int = 3) -> tuple[Any, Any, Any]:
    """(time_days, event, group); whole days in tens, so that times are tied, and events tie with the censored."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, count)
    time = rng.exponential(700.0 * (1 + group)).round(-1)
    censored = rng.uniform(0, 1500, count).round(-1)
    return np.minimum(time, censored), time <= censored, group


def every_time(*times: Any) -> Any:
    return np.unique(np.concatenate([[0.0], *times]))


def lifelines_curve(time: Any, event: Any) -> tuple[Any, Any, Any]:
    """(times, survival, bounds) as lifelines gives them."""
    from lifelines import KaplanMeierFitter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = KaplanMeierFitter().fit(time, event)
    survival = fit.survival_function_.iloc[:, 0]
    return survival.index.to_numpy(), survival.to_numpy(), fit.confidence_interval_survival_function_.to_numpy()


def rounded_up(time: Any, edges: Any) -> Any:
    return np.array([min(edge for edge in edges if edge >= each) for each in time])


@settings(max_examples=25, deadline=None)
@given(PATIENTS)
def test_a_curve_on_all_distinct_times_is_that_of_lifelines(patients: Any) -> None:
    time, event = (np.array(column) for column in zip(*patients, strict=True))
    edges = every_time(time, [99.0])
    found = grid_kaplan_meier(survival_counts(time, event, edges))
    days, survival, bounds = lifelines_curve(time, event)
    np.testing.assert_array_equal(edges[:-1], days)
    np.testing.assert_allclose(found.survival[:-1], survival, rtol=0, atol=1e-12)
    moving = np.flatnonzero((survival > 0) & (survival < 1))
    np.testing.assert_allclose(found.ci_low[moving], bounds[moving, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.ci_high[moving], bounds[moving, 1], rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(PATIENTS)
def test_bounds_of_a_curve_at_1_or_0_are_those_of_the_pooled_curve(patients: Any) -> None:
    time, event = (np.array(column) for column in zip(*patients, strict=True))
    found = grid_kaplan_meier(survival_counts(time + 1, event, every_time(time + 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pooled = kaplan_meier(time + 1, event)
    np.testing.assert_allclose(found.ci_low, pooled.ci_low, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.ci_high, pooled.ci_high, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.at_risk, pooled.at_risk(found.edges_days))


@pytest.mark.parametrize("seed", range(3))
def test_a_coarse_curve_is_that_of_lifelines_on_times_rounded_up_to_the_cells_end(seed: int) -> None:
    time, event, _ = cohort(seed)
    found = grid_kaplan_meier(survival_counts(time, event, COARSE))
    days, survival, bounds = lifelines_curve(rounded_up(time, COARSE), event)
    here = np.searchsorted(COARSE, days)
    np.testing.assert_allclose(found.survival[here], survival, rtol=0, atol=1e-12)
    moving = (survival > 0) & (survival < 1)
    np.testing.assert_allclose(found.ci_low[here][moving], bounds[moving, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.ci_high[here][moving], bounds[moving, 1], rtol=0, atol=1e-12)


def test_events_of_a_cell_come_before_the_censored_of_the_cell() -> None:
    found = grid_kaplan_meier(survival_counts([5.0, 3.0, 20.0], [True, False, False], (0.0, 10.0, 30.0)))
    assert found.survival.tolist() == pytest.approx([1.0, 2 / 3, 2 / 3])
    assert found.at_risk.tolist() == [3, 3, 1]


def test_sites_and_groups_add_up_to_the_pooled_patients() -> None:
    time, event, group = cohort(4)
    site = np.arange(time.size) % 4
    edges = every_time(time)
    sites = [survival_counts(time[site == s], event[site == s], edges, group[site == s], 3) for s in range(4)]
    merged = reduce(SurvivalCounts.__add__, sites)
    assert merged.patients == time.size
    for g in range(3):
        found = grid_kaplan_meier(merged, g)
        days, survival, _ = lifelines_curve(time[group == g], event[group == g])
        np.testing.assert_allclose(found.survival[np.searchsorted(edges, days)], survival, rtol=0, atol=1e-12)
    pooled = lifelines_curve(time, event)[1]
    np.testing.assert_allclose(grid_kaplan_meier(merged).survival, pooled, rtol=0, atol=1e-12)


def test_patients_past_the_last_edge_are_at_risk_on_the_whole_grid() -> None:
    time, event, _ = cohort(5)
    edges = every_time(time)
    short = edges[: edges.size // 2]
    found = grid_kaplan_meier(survival_counts(time, event, short))
    whole = grid_kaplan_meier(survival_counts(time, event, edges))
    np.testing.assert_array_equal(found.survival, whole.survival[: short.size])
    assert found.beyond == int((time > short[-1]).sum()) > 0
    assert found.at(short[-1] + 1) is None


def test_a_curve_is_read_as_a_step_up_to_the_last_follow_up() -> None:
    found = grid_kaplan_meier(survival_counts([10.0, 20.0, 25.0], [1, 1, 0], (0.0, 10.0, 20.0, 30.0, 40.0)))
    assert found.at(0) == (1.0, 1.0, 1.0)
    at_19 = found.at(19.9)
    assert at_19 is not None
    assert at_19[0] == pytest.approx(2 / 3)
    assert found.last_days == 30.0
    assert found.at(30.1) is None
    ended = grid_kaplan_meier(survival_counts([10.0], [1], (0.0, 10.0)))
    assert ended.at(99.0) == (0.0, 0.0, 1.0)
    for outside in (-1.0, float("nan")):
        with pytest.raises(InputError, match="no curve at"):
            found.at(outside)


@pytest.mark.parametrize("seed", range(4))
def test_the_median_is_that_of_lifelines(seed: int) -> None:
    import pandas as pd
    from lifelines.utils import median_survival_times

    time, event, _ = cohort(seed, count=61)
    days, survival, _ = lifelines_curve(time, event)
    expected = median_survival_times(pd.DataFrame({"s": survival}, index=days))
    assert grid_kaplan_meier(survival_counts(time, event, every_time(time))).median_days == expected


def test_the_median_is_reached_at_exactly_one_half_and_none_where_it_is_not() -> None:
    edges = (0.0, 1.0, 2.0, 3.0, 4.0)
    assert grid_kaplan_meier(survival_counts([1, 2, 3, 4], [1, 1, 1, 1], edges)).median_days == 2.0
    assert grid_kaplan_meier(survival_counts([1, 2, 3, 4], [1, 0, 0, 0], edges)).median_days is None


@settings(max_examples=25, deadline=None)
@given(PATIENTS)
def test_the_censoring_curve_is_that_of_scikit_survival(patients: Any) -> None:
    from sksurv.nonparametric import CensoringDistributionEstimator
    from sksurv.util import Surv

    time, event = (np.array(column) for column in zip(*patients, strict=True))
    assume(event.any())  # scikit-survival refuses the all-censored
    time = time + 1.0
    curve = censoring_curve(survival_counts(time, event, every_time(time)))
    target = Surv.from_arrays(event=event, time=time)
    theirs = CensoringDistributionEstimator().fit(target)
    asked = np.linspace(time.min(), time.max(), 37)
    np.testing.assert_allclose(curve.at(asked), theirs.predict_proba(asked), rtol=0, atol=1e-12)
    if (curve.at(time[event]) > 0).all():
        weights = np.where(event, 1 / np.where(event, curve.at(time), 1.0), 0.0)
        np.testing.assert_allclose(weights, theirs.predict_ipcw(target), rtol=1e-12)


def test_a_coarse_censoring_curve_is_that_of_times_rounded_up_and_ends_with_the_follow_up() -> None:
    from sksurv.nonparametric import kaplan_meier_estimator

    time, event, _ = cohort(6)
    curve = censoring_curve(survival_counts(time, event, (*COARSE, 9000.0)))
    days, expected = kaplan_meier_estimator(event, rounded_up(time, COARSE), reverse=True)
    np.testing.assert_allclose(curve.at(days), expected, rtol=0, atol=1e-12)
    assert curve.times[-1] == days[-1]


def test_median_follow_up_is_the_median_of_the_censoring_curve() -> None:
    edges = (0.0, 1.0, 2.0, 3.0, 4.0)
    untied = censoring_curve(survival_counts([1, 2, 3, 4], [0, 1, 0, 1], edges))  # falls to 3/4, then to 3/8
    assert median_follow_up(untied) == 3.0
    assert median_follow_up(censoring_curve(survival_counts([1, 2, 3, 4], [1, 1, 1, 1], edges))) is None


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_the_log_rank_test_is_that_of_lifelines_on_the_pooled_patients(groups: int) -> None:
    from lifelines.statistics import multivariate_logrank_test

    for seed in range(3):
        time, event, group = cohort(seed, groups=groups)
        site = np.arange(time.size) % 3
        edges = every_time(time)
        sites = [survival_counts(time[site == s], event[site == s], edges, group[site == s], groups) for s in range(3)]
        found = grid_log_rank([reduce(SurvivalCounts.__add__, sites)])
        theirs = multivariate_logrank_test(time, group, event)
        assert found.statistic == pytest.approx(theirs.test_statistic, rel=1e-10, abs=1e-10)
        assert found.p_value == pytest.approx(theirs.p_value, rel=1e-10, abs=1e-10)
        assert found.degrees_of_freedom == groups - 1


def test_the_log_rank_test_on_a_coarse_grid_is_that_of_times_rounded_up() -> None:
    from lifelines.statistics import multivariate_logrank_test

    time, event, group = cohort(2)
    found = grid_log_rank([survival_counts(time, event, COARSE, group, 3)])
    theirs = multivariate_logrank_test(rounded_up(time, COARSE), group, event)
    assert found.statistic == pytest.approx(theirs.test_statistic, rel=1e-10)


def stratified_by_hand(time: Any, event: Any, group: Any, site: Any) -> float:
    """Observed less expected and its hypergeometric covariance, patient by patient, summed over sites."""
    groups = int(group.max()) + 1
    difference, covariance = np.zeros(groups), np.zeros((groups, groups))
    for s in np.unique(site):
        t, e, g = time[site == s], event[site == s], group[site == s]
        for day in np.unique(t[e]):
            n = np.array([((t >= day) & (g == j)).sum() for j in range(groups)], dtype=float)
            d = np.array([((t == day) & e & (g == j)).sum() for j in range(groups)], dtype=float)
            total, deaths = n.sum(), d.sum()
            difference += d - deaths * n / total
            if total > 1:
                share = n / total
                factor = deaths * (total - deaths) / (total - 1)
                covariance += factor * (np.diag(share) - np.outer(share, share))
    return float(difference @ np.linalg.pinv(covariance) @ difference)


@pytest.mark.parametrize("seed", range(3))
def test_the_stratified_log_rank_test_is_the_textbooks(seed: int) -> None:
    time, event, group = cohort(seed)
    site = np.random.default_rng(seed + 100).integers(0, 3, time.size)
    edges = every_time(time)
    strata = [survival_counts(time[site == s], event[site == s], edges, group[site == s], 3) for s in range(3)]
    found = grid_log_rank(strata)
    assert found.statistic == pytest.approx(stratified_by_hand(time, event, group, site), rel=1e-10)
    assert found.statistic != pytest.approx(grid_log_rank([reduce(SurvivalCounts.__add__, strata)]).statistic, rel=1e-3)


def test_the_stratified_log_rank_test_of_untied_times_is_the_score_test_of_a_stratified_cox_regression() -> None:
    from adamss_fl.federation.statistics.cox_likelihood import CoxDerivatives, cox_derivatives

    rng = np.random.default_rng(8)
    time, event, group, site = rng.exponential(500, 80), rng.random(80) < 0.6, rng.integers(0, 3, 80), np.arange(80) % 2
    parts = [site == s for s in range(2)]
    found = grid_log_rank([survival_counts(time[p], event[p], every_time(time), group[p], 3) for p in parts])
    dummies = np.stack([group == 1, group == 2], axis=1).astype(float)
    score = reduce(CoxDerivatives.__add__, [cox_derivatives(dummies[p], time[p], event[p], np.zeros(2)) for p in parts])
    expected = score.gradient @ np.linalg.solve(score.information, score.gradient)
    assert found.statistic == pytest.approx(expected, rel=1e-10)


def test_a_log_rank_test_that_cannot_tell_the_groups_apart_is_refused() -> None:
    edges = (0.0, 10.0, 20.0, 30.0)
    with pytest.raises(InputError, match="no counts"):
        grid_log_rank([])
    with pytest.raises(InputError, match="fewer than two groups"):
        grid_log_rank([survival_counts([5, 15], [1, 1], edges)])
    with pytest.raises(InputError, match="fewer than two groups"):
        grid_log_rank([survival_counts([5, 15], [1, 1], edges, [0, 2], 3)])
    with pytest.raises(InputError, match="do not tell all groups apart"):
        grid_log_rank([survival_counts([5, 25, 28], [0, 1, 1], edges, [0, 1, 1], 2)])
    with pytest.raises(InputError, match="do not tell all groups apart"):
        grid_log_rank([survival_counts([5, 25, 28], [0, 0, 0], edges, [0, 1, 1], 2)])
    apart = [  # groups 0 and 1 at one site, 2 and 3 at the other
        survival_counts([5, 15, 25, 25], [1, 1, 0, 0], edges, [0, 1, 0, 1], 4),
        survival_counts([5, 15, 25, 25], [1, 1, 0, 0], edges, [2, 3, 2, 3], 4),
    ]
    with pytest.raises(InputError, match="do not tell all groups apart"):
        grid_log_rank(apart)
    assert grid_log_rank([apart[0] + apart[1]]).degrees_of_freedom == 3


def test_counts_travel_as_json_and_a_site_without_patients_adds_nothing() -> None:
    time, event, group = cohort(3)
    counts = survival_counts(time, event, COARSE, group, 3) + survival_counts([], [], COARSE, [], 3)
    back = SurvivalCounts.from_plain(json.loads(json.dumps(counts.plain())), COARSE, 3, time.size)
    assert back.plain() == counts.plain()
    assert back.patients == time.size
    with pytest.raises(InputError, match="no patients"):
        grid_kaplan_meier(survival_counts([], [], COARSE))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("events", [[0, 2, 0], [0, 0, -1]]),
        ("events", [[0, 2, 0], [0, 0, 0.5]]),
        ("events", [[0, 2, 0]]),
        ("events", [[0, 2, 0], [0, 0, 1e300]]),
        ("events", [[0, 7, 0], [0, 0, 0]]),
        ("events", [[0, 4, 0], [0, 0, 0]]),
        ("censored", [[0, 1], [0, 0]]),
        ("censored", [[0, float("nan"), 0], [0, 0, 0]]),
        ("beyond", [1]),
        ("beyond", [1, -1]),
        ("beyond", [5, 0]),
        ("edges_days", [0.0, 10.0, 21.0]),
        ("names", []),
    ],
)
def test_counts_that_no_site_can_have_are_refused(key: str, value: Any) -> None:
    good = survival_counts([3, 8, 15, 12, 30], [1, 1, 1, 0, 1], (0, 10, 20), [0, 0, 1, 1, 0], 2).plain()
    assert SurvivalCounts.from_plain(good, (0, 10, 20), 2, 5).plain() == good
    with pytest.raises(InputError, match="survival counts"):
        SurvivalCounts.from_plain({**good, key: value}, (0, 10, 20), 2, 5)


def test_other_groups_and_edges_and_malformed_arrays_are_refused() -> None:
    counts = survival_counts([3.0], [1], (0, 10))
    for other in (survival_counts([3.0], [1], (0, 11)), survival_counts([3.0], [1], (0, 10), [1], 2)):
        with pytest.raises(InputError, match="cannot be added"):
            counts + other
    for group in ([2], [-1], [0.5], [0, 1]):
        with pytest.raises(InputError, match="groups"):
            survival_counts([3.0], [1], (0, 10), group, 2)
    with pytest.raises(InputError, match="start at 0"):
        survival_counts([3.0], [1], (1, 10))
    with pytest.raises(InputError, match="no group 1"):
        counts.of_group(1)
