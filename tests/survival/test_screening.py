"""Univariate Cox from sums over sites, against scikit-survival and lifelines."""

import json
import math
import warnings
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.survival.screening import CoxSums, coarse_edges, cox_sums, newton_step, univariate_cox

EDGES = (0.0, 200.0, 400.0, 700.0, 1000.0, 1500.0, 2200.0)
Patients = tuple[Any, Any, Any]


def patients(seed: int, count: int = 120, features: int = 6) -> Patients:
    """(x, time_days, event): the first features bear on survival, the last do not; some are followed past the edges."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features))
    time = rng.exponential(900 * np.exp(-0.8 * x[:, 0] + 0.4 * x[:, 1]))
    censored = rng.uniform(100, 3500, count)
    return x, np.minimum(time, censored), (time <= censored).astype(int)


def asking(sites: list[Patients], edges: Any = EDGES) -> Callable[[Any], CoxSums]:
    return lambda beta: reduce(CoxSums.__add__, [cox_sums(*site, edges, beta) for site in sites])


def binned(time: Any, event: Any) -> tuple[Any, Any]:
    """What the bins make of endpoints: the bin's number, and no event past the last edge."""
    cell = np.digitize(time, EDGES) - 1
    return cell + 1.0, event.astype(bool) & (cell < len(EDGES) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_coefficients_are_those_of_scikit_survival_on_binned_times(seed: int) -> None:
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    x, time, event = patients(seed)
    found = univariate_cox(asking([(x, time, event)]), 6)
    cell, seen = binned(time, event)
    expected = [
        CoxPHSurvivalAnalysis(ties="breslow", tol=1e-12)
        .fit(x[:, [f]], Surv.from_arrays(event=seen, time=cell))
        .coef_[0]
        for f in range(6)
    ]
    np.testing.assert_allclose(found.beta, expected, atol=1e-6)
    assert found.fitted.all()


def plain_log_likelihood(beta: float, x: Any, cell: Any, seen: Any) -> float:
    """Breslow's formula, patient by patient."""
    return sum(beta * x[i] - math.log(np.exp(beta * x[cell >= cell[i]]).sum()) for i in np.flatnonzero(seen))


def test_likelihood_and_its_derivatives_are_those_of_the_formula() -> None:
    x, time, event = patients(5, count=40)
    beta = np.array([0.7, -0.3, 0.0, 1.2, -2.0, 0.1])
    found = newton_step(cox_sums(x, time, event, EDGES, beta), beta)
    h = 1e-4
    for f in range(6):
        low, mid, high = (plain_log_likelihood(beta[f] + d, x[:, f], *binned(time, event)) for d in (-h, 0, h))
        assert found.log_likelihood[f] == pytest.approx(mid, rel=1e-12)
        assert found.slope[f] == pytest.approx((high - low) / (2 * h), rel=1e-5, abs=1e-5)
        assert found.information[f] == pytest.approx(-(high - 2 * mid + low) / h**2, rel=1e-4)
        assert found.step[f] == pytest.approx(found.slope[f] / found.information[f])


def test_standard_errors_and_p_values_are_those_of_walds_test() -> None:
    from scipy.stats import norm

    x, time, event = patients(1)
    found = univariate_cox(asking([(x, time, event)]), 6)
    h = 1e-3
    for f in range(6):
        low, mid, high = (plain_log_likelihood(found.beta[f] + d, x[:, f], *binned(time, event)) for d in (-h, 0, h))
        se = 1 / math.sqrt(-(high - 2 * mid + low) / h**2)
        assert found.log_likelihood[f] == pytest.approx(mid, rel=1e-9)
        assert found.se[f] == pytest.approx(se, rel=1e-4)
        assert found.p[f] == pytest.approx(2 * norm.sf(abs(found.beta[f]) / se), rel=1e-2, abs=1e-12)
        assert found.z[f] * found.se[f] == pytest.approx(found.beta[f])


def test_on_fine_bins_coefficients_and_p_values_are_those_of_lifelines_on_untied_times() -> None:
    import pandas as pd
    from lifelines import CoxPHFitter

    x, time, event = patients(2, count=200)
    inner = np.sort(time)
    edges = np.concatenate([[0.0], (inner[1:] + inner[:-1]) / 2, [inner[-1] + 1]])
    found = univariate_cox(asking([(x, time, event)], edges), 6)
    for f in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = CoxPHFitter().fit(pd.DataFrame({"x": x[:, f], "t": time, "e": event}), "t", "e")
        assert found.beta[f] == pytest.approx(fit.params_["x"], abs=1e-5)
        assert found.se[f] == pytest.approx(fit.standard_errors_["x"], rel=1e-4)
        assert found.p[f] == pytest.approx(fit.summary.loc["x", "p"], rel=1e-2, abs=1e-12)


def test_coarse_bins_change_the_fit_only_a_little() -> None:
    import pandas as pd
    from lifelines import CoxPHFitter

    x, time, event = patients(3, count=300)
    found = univariate_cox(asking([(x, time, event)]), 6)
    for f in range(6):
        fit = CoxPHFitter().fit(pd.DataFrame({"x": x[:, f], "t": time, "e": event}), "t", "e")
        assert found.beta[f] == pytest.approx(fit.params_["x"], abs=0.2)


def split(whole: Patients, sites: int) -> list[Patients]:
    owner = np.random.default_rng(0).integers(0, sites, len(whole[1]))
    return [(whole[0][owner == k], whole[1][owner == k], whole[2][owner == k]) for k in range(sites)]


def test_sites_added_up_give_what_all_patients_together_give() -> None:
    whole = patients(4)
    beta = np.linspace(-1, 1, 6)
    merged, pooled = asking(split(whole, 4))(beta), cox_sums(*whole, EDGES, beta)
    for name, value in vars(pooled).items():
        np.testing.assert_allclose(getattr(merged, name), value, rtol=1e-10, atol=1e-10, err_msg=name)
    one, other = univariate_cox(asking([whole]), 6), univariate_cox(asking(split(whole, 4)), 6)
    for name in ("beta", "se", "z", "p", "log_likelihood"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-10, err_msg=name)


def test_constant_and_separating_features_end_unfitted_and_leave_the_others_alone() -> None:
    x, time, event = patients(6, features=3)
    early = (event == 1) & (time < EDGES[-1])
    odd = np.column_stack([x, np.zeros(len(x)), np.full(len(x), 2.5), early * 2.0 - 1.0])
    found = univariate_cox(asking([(odd, time, event)]), 6)
    assert found.fitted.tolist() == [True, True, True, False, False, False]
    assert all(np.isfinite(value).all() for value in vars(found).values())
    assert (found.p[3:] == 1).all()
    assert (found.beta[3:] == 0).all()
    alone = univariate_cox(asking([(x, time, event)]), 3)
    np.testing.assert_allclose(found.beta[:3], alone.beta, rtol=1e-12)


def test_where_newton_overshoots_the_step_is_halved_until_the_top_of_the_likelihood() -> None:
    """A feature with a heavy tail: its first full step, to -0.74, is past the top at -0.26."""
    rng = np.random.default_rng(3)
    x = rng.lognormal(0, 1.5, (60, 1)) * rng.choice([-1, 1])
    x = (x - x.mean()) / x.std()
    time, event = rng.exponential(900 * np.exp(np.clip(2 * x[:, 0], -3, 3))), np.ones(60, int)
    heights = []

    def ask(beta: Any) -> CoxSums:
        sums = cox_sums(x, time, event, EDGES, beta)
        heights.append(newton_step(sums, beta).log_likelihood[0])
        return sums

    found = univariate_cox(ask, 1)
    assert found.fitted.all()
    assert heights[1] < heights[0] < heights[2]
    assert len(heights) <= 8
    top = plain_log_likelihood(found.beta[0], x[:, 0], *binned(time, event))
    assert found.log_likelihood[0] == pytest.approx(top, rel=1e-10)
    for away in (-1e-3, 1e-3):
        assert plain_log_likelihood(found.beta[0] + away, x[:, 0], *binned(time, event)) < top


def test_the_number_of_calls_is_small() -> None:
    calls = []
    ask = asking([patients(8, features=6)])
    univariate_cox(lambda beta: (calls.append(beta), ask(beta))[1], 6)
    assert len(calls) <= 7


# --- on the wire ------------------------------------------------------------------------------------------------------


def test_sums_travel_as_json_without_loss() -> None:
    sums = cox_sums(*patients(0), EDGES, np.zeros(6))
    back = CoxSums.from_plain(json.loads(json.dumps(sums.plain())), features=6, bins=6)
    assert all(np.array_equal(getattr(back, name), value) for name, value in vars(sums).items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"events": [1, 2]}, "shape"),
        ({"events": [1, 2, 3, 4, 5, -1]}, "count"),
        ({"events": [1, 2, 3, 4, 5, 0.5]}, "count"),
        ({"event_x": [math.nan] * 6}, "event_x: a value is not finite"),
        ({"weight": [[math.inf] * 6] * 6}, "weight: a value is not finite"),
        ({"weight": [[-1.0] * 6] * 6}, "negative"),
        ({"weight_x": [["1"] * 6] * 6}, "not an array of numbers"),
        ({"weight_x2": [[1.0], [1.0, 2.0]]}, "not an array of numbers"),
        ({"patients": []}, "'patients' is unknown"),
    ],
)
def test_sums_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    plain = cox_sums(*patients(0), EDGES, np.zeros(6)).plain() | change
    with pytest.raises(InputError, match=message):
        CoxSums.from_plain(plain, features=6, bins=6)


def test_a_site_with_few_events_or_few_patients_gives_none_of_them_away() -> None:
    x, time, event = patients(0)
    few = np.zeros_like(event)
    few[np.flatnonzero((event == 1) & (time < EDGES[-1]))[:2]] = 1
    censored = cox_sums(x, time, few, EDGES, np.zeros(6))
    assert not censored.events.any()
    assert not censored.event_x.any()
    assert censored.weight[0, 0] == 120
    nothing = cox_sums(x[:2], time[:2], event[:2], EDGES, np.zeros(6))
    assert not any(value.any() for value in vars(nothing).values())


def test_sums_over_other_bins_or_features_are_not_added() -> None:
    with pytest.raises(InputError, match="cannot be added"):
        cox_sums(*patients(0), EDGES, np.zeros(6)) + cox_sums(*patients(0), EDGES[:-1], np.zeros(6))


def test_mistakes_are_refused() -> None:
    x, time, event = patients(0)
    for bad in ((x[:, 0], time, event), (x[1:], time, event), (x, time[1:], event), (x * np.nan, time, event)):
        with pytest.raises(InputError):
            cox_sums(*bad, EDGES, np.zeros(6))
    with pytest.raises(InputError, match="edges"):
        cox_sums(x, time, event, (0, 5, 5), np.zeros(6))
    with pytest.raises(InputError, match="overflows"):
        cox_sums(x * 1000, time, event, EDGES, np.ones(6))
    with pytest.raises(InputError, match="no event"):
        univariate_cox(asking([(x, time, np.zeros_like(event))]), 6)


# --- bins that tell of no patient -------------------------------------------------------------------------------------


@given(
    st.integers(1, 4).flatmap(
        lambda sites: st.lists(st.lists(st.integers(0, 6), min_size=7, max_size=7), min_size=sites, max_size=sites)
    ),
    st.integers(1, 4),
)
def test_joined_bins_hold_enough_patients_of_a_site_or_none(counts: list[list[int]], least: int) -> None:
    table = np.array(counts)
    total = table.sum(axis=1)
    if (total < least).all():
        with pytest.raises(InputError, match="no site has"):
            coarse_edges(counts, EDGES, least)
        return
    table[total < least] = 0
    found = coarse_edges(counts, EDGES, least)
    assert found[-1] == EDGES[-1]
    assert set(found) <= set(EDGES)
    assert found[0] == 0
    assert list(found) == sorted(set(found))
    owner = np.searchsorted(found, EDGES, side="right") - 1
    joined = np.stack([table[:, owner == k].sum(axis=1) for k in range(len(found))], axis=1)
    joined[:, -2] += joined[:, -1]
    for k in range(len(found) - 1):
        assert ((joined[:, k] == 0) | (joined[:, k] >= least)).all()


def test_bins_that_hold_enough_stay_as_they_are() -> None:
    assert coarse_edges([[3, 4, 5, 3, 3, 3, 1], [0, 4, 3, 3, 3, 0, 4]], EDGES) == EDGES
