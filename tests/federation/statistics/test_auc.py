"""Cumulative/dynamic AUC of several sites against scikit-survival, and its bounds against pairs counted one by one."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.metrics import cumulative_dynamic_auc
from sksurv.nonparametric import SurvivalFunctionEstimator, kaplan_meier_estimator
from sksurv.util import Surv

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.auc import AucSums, auc_sums, dynamic_auc
from adamss_fl.federation.statistics.censoring import CensoringCurve

TIMES = np.array([150.0, 365, 600, 1000])
SITES = np.repeat([0, 1, 2], [70, 15, 35])  # and a fourth site without patients


def cohort(seed: int, levels: int = 0, to: int = 0) -> tuple[Any, ...]:
    """time, event, risk of 120 patients; ``levels`` of risk make ties, ``to`` rounds times to 10^to days."""
    rng = np.random.default_rng(seed)
    risk = rng.integers(0, levels, 120) / levels if levels else rng.normal(0, 1, 120)
    own, lost = rng.exponential(900 * np.exp(-risk)), rng.exponential(1300, 120)
    time = np.minimum(own, lost).round(-to) if to else np.minimum(own, lost)
    time[0] = 1600
    return time, own <= lost, risk


def pooled_curve(time: Any, event: Any) -> CensoringCurve:
    return CensoringCurve(*kaplan_meier_estimator(event, time, reverse=True))


def merged(time: Any, event: Any, risk: Any, cuts: Any, times: Any = TIMES, sites: Any = SITES) -> AucSums:
    curve = pooled_curve(time, event)
    members = [np.asarray(sites) == k for k in range(4)]
    parts = [auc_sums(time[own], event[own], risk[own], times, cuts, curve) for own in members]
    return parts[0] + parts[1] + parts[2] + parts[3]


def between(risk: Any) -> Any:
    distinct = np.unique(risk)
    return (distinct[1:] + distinct[:-1]) / 2


@pytest.mark.parametrize(("levels", "to"), [(0, 0), (12, 0), (12, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_bins_that_part_all_risks_give_scikit_survivals_auc_and_mean(seed: int, levels: int, to: int) -> None:
    time, event, risk = cohort(seed, levels, to)
    everyone = Surv.from_arrays(event, time)
    marginal = SurvivalFunctionEstimator().fit(everyone).predict_proba(TIMES)
    found = dynamic_auc(merged(time, event, risk, between(risk)), marginal)
    auc, mean = cumulative_dynamic_auc(everyone, everyone, risk, TIMES)
    np.testing.assert_allclose(np.array(found.auc), auc, rtol=0, atol=1e-12)
    assert found.mean == pytest.approx(mean, abs=1e-12)
    if not levels:
        assert found.low == pytest.approx(found.auc, abs=1e-12)
        assert found.high == pytest.approx(found.auc, abs=1e-12)
        assert (found.mean_low, found.mean_high) == pytest.approx((mean, mean), abs=1e-12)


def test_risks_of_their_own_per_time_are_those_of_scikit_survival() -> None:
    time, event, risk = cohort(4)
    changing = risk[:, None] + np.random.default_rng(0).normal(0, 1, (120, 4))
    everyone = Surv.from_arrays(event, time)
    found = dynamic_auc(merged(time, event, changing, between(changing)), [0.9, 0.8, 0.7, 0.6])
    np.testing.assert_allclose(
        np.array(found.auc), cumulative_dynamic_auc(everyone, everyone, changing, TIMES)[0], atol=1e-12
    )


def test_a_single_site_is_exact_with_one_bin_for_all() -> None:
    time, event, risk = cohort(5, levels=9)
    everyone = Surv.from_arrays(event, time)
    found = dynamic_auc(merged(time, event, risk, [], sites=np.zeros(120)), [0.9, 0.8, 0.7, 0.6])
    auc, _ = cumulative_dynamic_auc(everyone, everyone, risk, TIMES)
    for bound in (found.auc, found.low, found.high):
        np.testing.assert_allclose(np.array(bound), auc, atol=1e-12)
    assert found.unresolved == pytest.approx((0, 0, 0, 0), abs=1e-12)


PATIENTS = st.lists(
    st.tuples(st.integers(1, 9), st.booleans(), st.integers(-4, 4), st.integers(0, 2)), min_size=2, max_size=25
)


def pairs_one_by_one(patients: list[Any], at: float, cuts: list[float], curve: CensoringCurve) -> tuple[float, ...]:
    """Weights of all pairs, of right ones (ties half), and of those of two sites in one bin: right ones and all."""
    total = right = known_right = unresolved = 0.0
    for time, event, risk, site in patients:
        for other_time, _, other_risk, other_site in patients:
            if not (event and time <= at < other_time):
                continue
            weight = 1 / curve.at(time).item()
            worth = weight * ((risk > other_risk) + 0.5 * (risk == other_risk))
            total, right = total + weight, right + worth
            if site != other_site and sum(cut <= risk for cut in cuts) == sum(cut <= other_risk for cut in cuts):
                unresolved += weight
            else:
                known_right += worth
    return total, right, known_right, unresolved


@settings(max_examples=80, deadline=None)
@given(PATIENTS, st.lists(st.sampled_from([-3.5, -2.0, -1.0, 0.0, 0.5, 2.0, 3.5]), unique=True).map(sorted))
def test_bounds_hold_the_pooled_auc_whatever_the_bins(patients: list[Any], cuts: list[float]) -> None:
    patients = [*patients, (11, False, 0, 0)]
    time, event, risk, site = (np.array(column) for column in zip(*patients, strict=True))
    time, curve = time.astype(float), pooled_curve(time.astype(float), event)
    days = [2.0, 5.0, 8.0]
    found = dynamic_auc(merged(time, event, risk.astype(float), cuts, days, site), [0.9, 0.6, 0.5])
    for at, auc, low, high, share in zip(days, found.auc, found.low, found.high, found.unresolved, strict=True):
        total, right, known_right, unresolved = pairs_one_by_one(patients, at, cuts, curve)
        if total == 0:
            assert (auc, low, high, share) == (None, None, None, None)
            continue
        assert low - 1e-12 <= right / total <= high + 1e-12
        assert auc == pytest.approx((known_right + unresolved / 2) / total, abs=1e-12)
        assert low == pytest.approx(known_right / total, abs=1e-12)
        assert high == pytest.approx((known_right + unresolved) / total, abs=1e-12)
        assert share == pytest.approx(unresolved / total, abs=1e-12)
        assert 0 <= low <= auc <= high <= 1


def test_finer_bins_narrow_the_bounds() -> None:
    time, event, risk = cohort(6)
    widths = []
    for bins in (2, 4, 16):
        found = dynamic_auc(
            merged(time, event, risk, np.quantile(risk, np.arange(1, bins) / bins)), [0.9, 0.8, 0.7, 0.6]
        )
        widths.append(found.mean_high - found.mean_low)
        assert found.mean_low < found.mean < found.mean_high
    assert widths[2] < widths[1] / 2 < widths[0] / 2


def test_without_cases_or_controls_there_is_no_auc_and_no_mean_that_needs_it() -> None:
    time, event, risk = np.array([10.0, 20, 30, 40]), np.array([True, True, True, True]), np.arange(4.0)
    sums = merged(time, event, risk, [1.5], [5.0, 25.0], np.array([0, 1, 0, 1]))
    found = dynamic_auc(sums, [1.0, 0.5])
    assert found.auc[0] is None
    assert found.mean == found.auc[1]
    assert dynamic_auc(sums, [1.0, 1.0]).mean is None
    assert dynamic_auc(merged(time, event, risk, [1.5], [25.0, 40.0], np.arange(4)), [0.5, 0.0]).mean is None
    one = dynamic_auc(merged(time, event, risk, [1.5], [25.0], np.arange(4)), [0.5])
    assert one.mean == one.auc[0] == 0


def test_sums_travel_as_json_without_loss() -> None:
    time, event, risk = cohort(0)
    cuts, curve = [-0.5, 0.5], pooled_curve(time, event)
    sums = merged(time, event, risk, cuts)
    back = AucSums.from_plain(json.loads(json.dumps(sums.plain())), TIMES, cuts, curve, 120)
    assert all(np.array_equal(getattr(back, name), value) for name, value in vars(sums).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 121}, "patients"),
        ({"cases": [[0.5] * 3] * 4}, "less than one patient"),
        ({"cases": [[-1.0] * 3] * 4}, "less than one patient"),
        ({"cases": [[100.0] * 3] * 4}, "cases weigh more"),
        ({"cases": [[9.0] * 3] * 2 + [[1.0] * 3] * 2}, "falls with time"),
        ({"cases": [[1.0] * 2] * 4}, "shape"),
        ({"controls": [[1] * 3, [2] * 3, [3] * 3, [4] * 3]}, "rise with time"),
        ({"controls": [[0.5] * 3] * 4}, "whole number"),
        ({"own_right": [-1.0] * 4}, "negative"),
        ({"own_tied": [1e6] * 4}, "more than own_pairs"),
        ({"own_pairs": [1e6] * 4}, "cases and controls allow"),
        ({"risks": []}, "'risks' is unknown"),
    ],
)
def test_sums_that_no_patients_can_have_are_refused(change: dict[str, Any], message: str) -> None:
    time, event, risk = cohort(0)
    cuts, curve = [-0.5, 0.5], pooled_curve(time, event)
    with pytest.raises(InputError, match=message):
        AucSums.from_plain(merged(time, event, risk, cuts).plain() | change, TIMES, cuts, curve, 120)


def test_other_bins_and_malformed_arrays_are_refused() -> None:
    time, event, risk = cohort(0)
    curve = pooled_curve(time, event)
    with pytest.raises(InputError, match="cannot be added"):
        merged(time, event, risk, [0.0]) + merged(time, event, risk, [0.1])
    with pytest.raises(InputError, match="cuts must increase"):
        auc_sums(time, event, risk, TIMES, [1.0, 1.0], curve)
    for bad in (risk[1:], risk * np.nan, np.tile(risk[:, None], (1, 3))):
        with pytest.raises(InputError, match="AUC sums: risks"):
            auc_sums(time, event, bad, TIMES, [0.0], curve)
    with pytest.raises(InputError, match="marginal survival"):
        dynamic_auc(merged(time, event, risk, [0.0]), [0.5])
