"""Brier scores of several sites against scikit-survival on the pooled patients, and the curve that weights them."""

import json
import math
from typing import Any

import numpy as np
import pytest
from sksurv.metrics import brier_score as their_brier_score
from sksurv.metrics import integrated_brier_score
from sksurv.nonparametric import CensoringDistributionEstimator, SurvivalFunctionEstimator, kaplan_meier_estimator
from sksurv.util import Surv

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.censoring import CensoringCurve
from adamss_fl.federation.statistics.prediction_error import BrierSums, brier_score, brier_sums

EDGES = np.array([0.0, 200, 500, 900, 1500, 2400])
TIMES = np.array([100.0, 365, 500, 730, 1100])
SITES = np.arange(4)[:, None] == np.repeat([0, 1, 2], [70, 15, 35])
"""Whose patient each is, (4, 120); the last site has none."""


def cohort(seed: int, n: int = 120, to: int = 0) -> tuple[Any, ...]:
    """time, event, curves (N, 5); ``to`` rounds times to 10^to days, so that events and censored patients tie."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.3, 2.5, n) / 1000
    own, lost = rng.exponential(1 / rate), rng.exponential(1300, n)
    time = np.minimum(own, lost).round(-to) if to else np.minimum(own, lost)
    time[0] = 1600  # somebody is followed past the last evaluation time
    return time, own <= lost, np.exp(-rate[:, None] * EDGES[1:] * rng.uniform(0.7, 1.3, (n, 1)))


def pooled_curve(time: Any, event: Any) -> CensoringCurve:
    return CensoringCurve(*kaplan_meier_estimator(event, time, reverse=True))


def read(curves: Any, times: Any) -> Any:
    return np.array([[np.interp(day, EDGES, [1.0, *curve]) for day in times] for curve in curves])


def merged(time: Any, event: Any, curves: Any, times: Any = TIMES, curve: CensoringCurve | None = None) -> BrierSums:
    given = curve or pooled_curve(time, event)
    parts = [brier_sums(time[own], event[own], curves[own], EDGES, times, given) for own in SITES]
    return parts[0] + parts[1] + parts[2] + parts[3]


@pytest.mark.parametrize("to", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_merged_scores_are_scikit_survivals_on_the_pooled_patients(seed: int, to: int) -> None:
    time, event, curves = cohort(seed, to=to)
    everyone = Surv.from_arrays(event, time)
    marginal = SurvivalFunctionEstimator().fit(everyone).predict_proba(TIMES)
    found = brier_score(merged(time, event, curves), marginal)
    known = their_brier_score(everyone, everyone, read(curves, TIMES), TIMES)[1]
    np.testing.assert_allclose(found.score, known, rtol=0, atol=1e-12)
    whole = integrated_brier_score(everyone, everyone, read(curves, TIMES), TIMES)
    assert found.integrated == pytest.approx(whole, abs=1e-12)

    same_for_all = np.tile(marginal, (time.size, 1))
    reference = their_brier_score(everyone, everyone, same_for_all, TIMES)[1]
    np.testing.assert_allclose(found.reference, reference, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.array(found.ipa), 1 - known / reference, rtol=0, atol=1e-11)
    reference_whole = integrated_brier_score(everyone, everyone, same_for_all, TIMES)
    assert found.integrated_ipa == pytest.approx(1 - whole / reference_whole, abs=1e-11)
    assert found.patients == 120


def test_the_curve_is_scikit_survivals_at_any_time_and_before_it_steps_left_of_itself() -> None:
    time, event, _ = cohort(5, to=2)
    curve = pooled_curve(time, event)
    days = np.array([0.0, 50, 100, 101, 800, *np.unique(time)])
    theirs = CensoringDistributionEstimator().fit(Surv.from_arrays(event, time))
    np.testing.assert_array_equal(curve.at(days), theirs.predict_proba(days))
    np.testing.assert_array_equal(curve.before(days), theirs.predict_proba(days - 1e-6))
    assert (curve.before(days) > curve.at(days)).any()


def test_without_censoring_the_score_is_the_mean_squared_error() -> None:
    time, _, curves = cohort(6)
    event = np.ones(time.size, dtype=bool)
    found = brier_score(merged(time, event, curves), (time[:, None] > TIMES).mean(axis=0))
    error = (((time[:, None] > TIMES) - read(curves, TIMES)) ** 2).mean(axis=0)
    np.testing.assert_allclose(found.score, error, atol=1e-14)
    share = (time[:, None] > TIMES).mean(axis=0)
    np.testing.assert_allclose(found.reference, share * (1 - share), atol=1e-14)


def test_the_marginal_curve_itself_has_an_ipa_of_zero_and_a_perfect_model_one_of_one() -> None:
    time, event, _ = cohort(7)
    marginal = SurvivalFunctionEstimator().fit(Surv.from_arrays(event, time)).predict_proba(EDGES[1:4])
    flat = np.tile(np.append(marginal, [0.0, 0.0]), (time.size, 1))
    found = brier_score(merged(time, event, flat, EDGES[1:4]), marginal)
    np.testing.assert_allclose(np.array([*found.ipa, found.integrated_ipa]), 0, atol=1e-12)
    known = (time[:, None] > EDGES[1:]).astype(float)
    perfect = brier_score(merged(time, np.ones_like(event), known, EDGES[1:4]), marginal)
    assert perfect.ipa == (1, 1, 1)


def test_one_time_has_no_integral_and_a_reference_without_error_no_ipa() -> None:
    time, event, curves = cohort(8)
    found = brier_score(merged(time, event, curves, [0.0]), [1.0])
    assert (found.integrated, found.reference_integrated, found.integrated_ipa) == (None, None, None)
    assert (found.reference.tolist(), found.ipa) == ([0.0], (None,))


def test_sums_and_curve_travel_as_json_without_loss() -> None:
    time, event, curves = cohort(0)
    curve = CensoringCurve.from_plain(json.loads(json.dumps(pooled_curve(time, event).plain())))
    sums = merged(time, event, curves, curve=curve)
    back = BrierSums.from_plain(json.loads(json.dumps(sums.plain())), TIMES, curve, 120)
    assert all(np.array_equal(getattr(back, name), value) for name, value in vars(sums).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 121}, "patients"),
        ({"patients": 1e300}, "patients"),
        ({"patients": 20.5}, "whole number"),
        ({"controls": [90, 95, 40, 30, 20]}, "rise with time"),
        ({"controls": [121, 95, 40, 30, 20]}, "exceed"),
        ({"controls": [1, 2]}, "shape"),
        ({"case_weight": [5.0, 4, 30, 40, 50]}, "falls with time"),
        ({"case_weight": [-1.0, 0, 0, 0, 0]}, "negative"),
        ({"case_weight": [1e6] * 5}, "cases weigh more"),
        ({"squared_errors": [-0.1] * 5}, "squared error is negative"),
        ({"squared_errors": [1e4] * 5}, "more than the patients' weights"),
        ({"squared_errors": [math.nan] * 5}, "not finite"),
        ({"names": []}, "'names' is unknown"),
    ],
)
def test_sums_that_no_patients_can_have_are_refused(change: dict[str, Any], message: str) -> None:
    time, event, curves = cohort(0)
    given = merged(time, event, curves).plain() | change
    with pytest.raises(InputError, match=message):
        BrierSums.from_plain(given, TIMES, pooled_curve(time, event), 120)


def test_sums_of_other_times_or_another_curve_are_not_added() -> None:
    time, event, curves = cohort(0)
    sums = merged(time, event, curves)
    with pytest.raises(InputError, match="cannot be added"):
        sums + merged(time, event, curves, TIMES + 1)
    with pytest.raises(InputError, match="cannot be added"):
        sums + merged(time, event, curves, curve=CensoringCurve(np.array([2000.0]), np.array([0.9])))


@pytest.mark.parametrize(
    ("times", "survival", "message"),
    [
        ([], [], "increase strictly"),
        ([3, 3], [0.9, 0.8], "increase strictly"),
        ([-1, 3], [0.9, 0.8], "0 or more"),
        ([1, 3], [0.8, 0.9], "never rise"),
        ([1, 3], [1.1, 0.9], "fall from 1"),
        ([1, 3], [0.9, -0.1], "towards 0"),
        ([1, 3], [0.9], "shape"),
        ([1, 3], [0.9, math.nan], "not finite"),
    ],
)
def test_what_is_no_censoring_curve_is_refused(times: Any, survival: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CensoringCurve.from_plain({"times": times, "survival": survival})


def test_times_without_a_finite_weight_are_refused() -> None:
    time, event, curves = cohort(0)
    ends = CensoringCurve(np.array([300.0, 1000]), np.array([0.9, 0.5]))
    with pytest.raises(InputError, match="ends at day 1000"):
        merged(time, event, curves, curve=ends)
    with pytest.raises(InputError, match="is 0 at day 1100"):
        merged(time, event, curves, curve=CensoringCurve(np.array([300.0, 1000]), np.array([0.9, 0.0])))
    for days in ([], [5.0, 5.0], [-1.0, 2.0], [9.0, 2.0]):
        with pytest.raises(InputError, match="evaluation times"):
            merged(time, event, curves, days)


def test_malformed_predictions_are_refused() -> None:
    time, event, curves = cohort(0)
    curve = pooled_curve(time, event)
    for bad in (curves[1:], curves[:, 1:], curves[0], curves + 1, curves * np.nan):
        with pytest.raises(InputError, match="predicted survival"):
            brier_sums(time, event, bad, EDGES, TIMES, curve)
    with pytest.raises(InputError, match="edges must start at 0"):
        brier_sums(time, event, curves, EDGES + 1, TIMES, curve)
    with pytest.raises(InputError, match="lies outside 0 to"):
        brier_sums(time, event, curves, EDGES / 100, [30.0], curve)
    with pytest.raises(InputError, match="no site has a patient"):
        brier_score(brier_sums([], [], curves[:0], EDGES, TIMES, curve), [0.5] * 5)
    for marginal in ([0.5] * 4, [0.5, 0.6, 0.4, 0.3, 0.2], [1.5, 1, 1, 1, 1]):
        with pytest.raises(InputError, match="marginal survival"):
            brier_score(merged(time, event, curves), marginal)
