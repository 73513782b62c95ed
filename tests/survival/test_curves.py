"""Kaplan-Meier, log-rank and calibration against scikit-survival, scipy and closed forms."""

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.survival import calibration, kaplan_meier, logrank, risk_groups, survival_at


def _cohort(n=80, seed=0, scale=900):
    rng = np.random.default_rng(seed)
    return rng.exponential(scale, n).round(), rng.random(n) < 0.6


def test_kaplan_meier_equals_scikit_survival():
    from sksurv.nonparametric import kaplan_meier_estimator

    t, e = _cohort()
    curve = kaplan_meier(t, e)
    times, survival, bounds = kaplan_meier_estimator(e, t, conf_type="log-log")
    for time, s, low, high in zip(times, survival, bounds[0], bounds[1], strict=True):
        if 0 < s < 1:
            assert curve.at(time) == pytest.approx((s, low, high), abs=1e-9)


def test_bounds_are_defined_from_the_first_day_to_the_last():
    curve = kaplan_meier([10, 20, 30], [0, 1, 1])
    assert curve.survival.tolist() == pytest.approx([1, 1, 0.5, 0])
    assert np.isfinite(curve.ci_low).all()
    assert np.isfinite(curve.ci_high).all()
    assert (curve.ci_low <= curve.survival).all()
    assert (curve.survival <= curve.ci_high).all()


def test_numbers_at_risk_count_those_still_followed():
    t, e = _cohort()
    days = np.array([0, 200, t[3], 5000])
    assert kaplan_meier(t, e).at_risk(days).tolist() == [int((t >= day).sum()) for day in days]


def test_a_curve_says_nothing_after_its_last_follow_up():
    assert kaplan_meier([10, 20, 30], [1, 1, 0]).at(31) is None
    assert kaplan_meier([10, 20, 30], [1, 1, 1]).at(31)[0] == 0


def test_logrank_equals_scikit_survival():
    from sksurv.compare import compare_survival
    from sksurv.util import Surv

    groups = [_cohort(60, 1, 500), _cohort(50, 2, 1200), _cohort(40, 3, 900)]
    ours = logrank(*groups)
    t, e = (np.concatenate([group[k] for group in groups]) for k in (0, 1))
    statistic, p_value = compare_survival(Surv.from_arrays(e, t), np.repeat([0, 1, 2], [60, 50, 40]))
    assert (ours.statistic, ours.p_value) == pytest.approx((statistic, p_value), rel=1e-9)
    assert ours.degrees_of_freedom == 2


@pytest.mark.parametrize("groups", [[([1], [1])], [([1, 2], [0, 0]), ([3], [0])], [([1, 2], [1, 1]), ([], [])]])
def test_logrank_without_an_answer_is_an_error_and_never_nan(groups):
    with pytest.raises(InputError, match="log-rank"):
        logrank(*groups)


def test_two_risk_groups_are_cut_at_the_median():
    assert risk_groups([3.0, 1.0, 2.0, 4.0]).tolist() == [1, 0, 0, 1]
    assert np.bincount(risk_groups(np.random.default_rng(0).random(99), 3)).tolist() == [33, 33, 33]
    assert risk_groups([2.0, 2.0, 2.0]).tolist() == [0, 0, 0]


def test_predicted_survival_is_linear_between_edges():
    curves = [[0.8, 0.4], [1.0, 0.0]]
    assert survival_at(curves, [0, 100, 300], 0).tolist() == [1, 1]
    assert survival_at(curves, [0, 100, 300], 50).tolist() == pytest.approx([0.9, 1.0])
    assert survival_at(curves, [0, 100, 300], 200).tolist() == pytest.approx([0.6, 0.5])
    assert survival_at(curves, [0, 100, 300], 300).tolist() == pytest.approx([0.4, 0.0])
    with pytest.raises(InputError, match="outside 0 to 300"):
        survival_at(curves, [0, 100, 300], 301)


def test_the_true_model_is_calibrated():
    rng = np.random.default_rng(0)
    scale = rng.uniform(300, 3000, 4000)
    death, censored = rng.exponential(scale), rng.uniform(400, 4000, 4000)
    groups = calibration(np.minimum(death, censored), death <= censored, np.exp(-1000 / scale), 1000, groups=4)
    assert sum(group.patients for group in groups) == 4000
    assert [group.predicted for group in groups] == sorted(group.predicted for group in groups)
    for group in groups:
        assert group.observed == pytest.approx(group.predicted, abs=0.04)
        assert group.low < group.observed < group.high


def test_a_group_not_followed_to_the_horizon_has_no_observed_survival():
    (group,) = calibration([10, 20, 30], [1, 0, 0], [0.5, 0.5, 0.5], 100)
    assert group.observed is group.low is group.high is None
    assert group.patients == 3
    assert group.events == 1
