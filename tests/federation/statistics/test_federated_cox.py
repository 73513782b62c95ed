"""Cox regression from sums over sites, unstratified and stratified, against lifelines and scikit-survival."""

import json
import math
import warnings
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cox import CoxFit, Separation, SingularInformation, TooFewEvents, fit_cox
from adamss_fl.federation.statistics.cox_likelihood import CoxDerivatives, cox_derivatives, derivatives_at
from adamss_fl.federation.statistics.cox_sums import CoxTimeSums, cox_time_sums

NAMES = ("age", "volume", "hpv")
Patients = tuple[Any, Any, Any]


def cohort(seed: int, count: int = 150, tied: bool = True) -> Patients:
    """(x, time_days, event): covariates of quite different units; times in months where tied."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.normal(60, 10, count), rng.lognormal(2.5, 0.8, count), rng.integers(0, 2, count)], axis=1)
    hazard = np.exp(0.04 * (x[:, 0] - 60) + 0.02 * x[:, 1] - 0.9 * x[:, 2])
    time, censored = rng.exponential(900 / hazard), rng.uniform(100, 2000, count)
    observed = np.minimum(time, censored)
    return x, np.ceil(observed / 60) * 60 if tied else observed, time <= censored


def split(whole: Patients, sites: int = 3) -> list[Patients]:
    """Uneven sites."""
    site = np.random.default_rng(1).choice(sites, whole[1].size, p=np.arange(1, sites + 1) / (sites * (sites + 1) / 2))
    return [tuple(column[site == s] for column in whole) for s in range(sites)]  # type: ignore[misc]


def pooled(sites: list[Patients]) -> Patients:
    return tuple(np.concatenate(columns) for columns in zip(*sites, strict=True))  # type: ignore[return-value]


def event_times(sites: list[Patients]) -> Any:
    return np.unique(np.concatenate([time[event] for _, time, event in sites]))


def shared(sites: list[Patients], grid: Any = None, ties: Any = "efron") -> Callable[[Any], CoxTimeSums]:
    """Asks as a server does: each site's sums travel as JSON and are checked."""
    times = event_times(sites) if grid is None else grid

    def ask(beta: Any) -> CoxTimeSums:
        sent = [json.dumps(cox_time_sums(*site, times, beta, ties).plain()) for site in sites]
        read = [
            CoxTimeSums.from_plain(json.loads(text), times, beta.size, site[1].size, ties)
            for text, site in zip(sent, sites, strict=True)
        ]
        return reduce(CoxTimeSums.__add__, read)

    return ask


def stratified(sites: list[Patients], ties: Any = "efron") -> Callable[[Any], CoxDerivatives]:
    def ask(beta: Any) -> CoxDerivatives:
        sent = [json.dumps(cox_derivatives(*site, beta, ties).plain()) for site in sites]
        read = [
            CoxDerivatives.from_plain(json.loads(text), beta.size, site[1].size)
            for text, site in zip(sent, sites, strict=True)
        ]
        return reduce(CoxDerivatives.__add__, read)

    return ask


def lifelines_fit(sites: list[Patients], by_site: bool = False) -> Any:
    import pandas as pd
    from lifelines import CoxPHFitter

    x, time, event = pooled(sites)
    table = pd.DataFrame(x, columns=list(NAMES)[: x.shape[1]]).assign(t=time, e=event)
    table["site"] = np.repeat(np.arange(len(sites)), [site[1].size for site in sites])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CoxPHFitter().fit(
            table if by_site else table.drop(columns="site"),
            "t",
            "e",
            strata=["site"] if by_site else None,
            fit_options={"precision": 1e-12},
        )


def same_as_lifelines(found: CoxFit, theirs: Any) -> None:
    summary = theirs.summary
    assert found.converged
    np.testing.assert_allclose(found.beta, summary["coef"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.se, summary["se(coef)"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.z, summary["z"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.p, summary["p"], rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(found.hazard_ratio, summary["exp(coef)"], rtol=1e-5)
    np.testing.assert_allclose(found.ci_low, summary["exp(coef) lower 95%"], rtol=1e-5)
    np.testing.assert_allclose(found.ci_high, summary["exp(coef) upper 95%"], rtol=1e-5)
    assert found.log_likelihood == pytest.approx(theirs.log_likelihood_, abs=1e-7)


@pytest.mark.parametrize(("seed", "tied"), [(0, True), (1, True), (2, False)])
def test_one_baseline_for_all_sites_is_lifelines_fit_of_the_pooled_patients(seed: int, tied: bool) -> None:
    sites = split(cohort(seed, tied=tied))
    found = fit_cox(shared(sites), NAMES)
    theirs = lifelines_fit(sites)
    same_as_lifelines(found, theirs)
    ratio = theirs.log_likelihood_ratio_test().test_statistic
    assert 2 * (found.log_likelihood - found.null_log_likelihood) == pytest.approx(ratio, abs=1e-6)
    assert found.events == pooled(sites)[2].sum()
    assert found.iterations <= 10


@pytest.mark.parametrize(("seed", "tied"), [(3, True), (4, True), (5, False)])
def test_stratified_by_site_is_lifelines_fit_with_site_as_strata(seed: int, tied: bool) -> None:
    sites = split(cohort(seed, tied=tied))
    same_as_lifelines(fit_cox(stratified(sites), NAMES), lifelines_fit(sites, by_site=True))


@pytest.mark.parametrize("seed", [6, 7])
def test_breslows_ties_are_those_of_scikit_survival(seed: int) -> None:
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    sites = split(cohort(seed))
    x, time, event = pooled(sites)
    centred = x - x.mean(axis=0)
    theirs = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-14).fit(centred, Surv.from_arrays(event=event, time=time))
    found = fit_cox(shared(sites, ties="breslow"), NAMES)
    np.testing.assert_allclose(found.beta, theirs.coef_, rtol=0, atol=1e-6)
    assert np.abs(found.beta - fit_cox(shared(sites), NAMES).beta).max() > 1e-4


def patient_by_patient(patients: Patients, beta: Any, ties: str) -> float:
    """The log partial likelihood by its formula."""
    x, time, event = patients
    weight, total = np.exp(x @ beta), 0.0
    for day in np.unique(time[event]):
        dead = event & (time == day)
        d = int(dead.sum())
        for j in range(d):
            left_out = j / d * weight[dead].sum() if ties == "efron" else 0.0
            total -= math.log(weight[time >= day].sum() - left_out)
        total += float((x[dead] @ beta).sum())
    return total


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_likelihood_gradient_and_information_are_those_of_the_formula(ties: Any) -> None:
    x, time, event = cohort(8, count=60)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    beta, h, eye = np.array([0.4, -0.2, 0.3]), 1e-4, np.eye(3)
    found = cox_derivatives(x, time, event, beta, ties)

    def value(shift: Any) -> float:
        return patient_by_patient((x, time, event), beta + h * shift, ties)

    assert found.log_likelihood == pytest.approx(value(np.zeros(3)), rel=1e-12)
    gradient = [(value(a) - value(-a)) / (2 * h) for a in eye]
    hessian = [[(value(a + b) - value(a - b) - value(b - a) + value(-a - b)) / (4 * h * h) for b in eye] for a in eye]
    np.testing.assert_allclose(found.gradient, gradient, atol=1e-5)
    np.testing.assert_allclose(found.information, -np.array(hessian), atol=1e-4)


def test_one_site_equals_the_pooled_patients_in_either_mode() -> None:
    whole = cohort(9)
    alone = fit_cox(shared([whole]), NAMES)
    np.testing.assert_allclose(fit_cox(stratified([whole]), NAMES).beta, alone.beta, rtol=0, atol=1e-10)
    np.testing.assert_allclose(fit_cox(shared(split(whole)), NAMES).beta, alone.beta, rtol=0, atol=1e-10)


def test_a_site_without_events_counts_in_the_shared_risk_sets_and_adds_nothing_to_strata() -> None:
    sites = split(cohort(10))
    x, time, event = sites[0]
    censored = [(x, time, np.zeros_like(event)), *sites[1:]]
    grid = event_times(censored)
    same_as_lifelines(fit_cox(shared(censored, grid), NAMES), lifelines_fit(censored))
    with_it, without = fit_cox(stratified(censored), NAMES), fit_cox(stratified(sites[1:]), NAMES)
    np.testing.assert_array_equal(with_it.beta, without.beta)
    assert np.abs(with_it.beta - fit_cox(shared(sites[1:], grid), NAMES).beta).max() > 1e-3


def test_a_site_without_patients_adds_nothing() -> None:
    sites = split(cohort(11))
    nobody = (np.empty((0, 3)), np.empty(0), np.empty(0, dtype=bool))
    for mode in (shared, stratified):
        expected, found = fit_cox(mode(sites), NAMES), fit_cox(mode([*sites, nobody]), NAMES)
        np.testing.assert_array_equal(found.beta, expected.beta)


def test_on_a_coarse_grid_events_move_to_the_next_time_and_the_censored_to_the_last_one() -> None:
    x, time, event = cohort(12, tied=False)
    grid = np.array([150.0, 300.0, 500.0, 800.0, 1200.0])
    after = np.append(grid, np.inf)[np.searchsorted(grid, time)]
    before = np.append(0.0, grid)[np.searchsorted(grid, time, side="right")]
    moved = np.where(event & np.isfinite(after), after, np.where(event, grid[-1], before))
    theirs = lifelines_fit([(x, moved, event & np.isfinite(after))])
    same_as_lifelines(fit_cox(shared(split((x, time, event)), grid), NAMES), theirs)


def test_units_and_origins_of_covariates_do_not_matter() -> None:
    x, time, event = cohort(13)
    unit, origin = np.array([1e-2, 1e4, 1.0]), np.array([7.0, 1e4, 100.0])
    for mode in (shared, stratified):
        expected = fit_cox(mode(split((x, time, event))), NAMES)
        found = fit_cox(mode(split((x * unit + origin, time, event))), NAMES)
        np.testing.assert_allclose(found.beta * unit, expected.beta, rtol=1e-7)
        np.testing.assert_allclose(found.se * unit, expected.se, rtol=1e-7)
    with pytest.raises(InputError, match="'age' overflows"):
        fit_cox(stratified([(x * [1e-5, 1.0, 1.0], time, event)]), NAMES)


def test_a_covariate_that_does_not_vary_or_repeats_others_is_named() -> None:
    x, time, event = cohort(14)
    for mode in (shared, stratified):
        constant = np.column_stack([x, np.full(time.size, 2020.1)])
        with pytest.raises(SingularInformation, match="'year' does not vary") as raised:
            fit_cox(mode(split((constant, time, event))), (*NAMES, "year"))
        assert raised.value.covariate == "year"
        doubled = np.column_stack([x, 2 * x[:, 0] - 3 * x[:, 2] + 1])
        with pytest.raises(SingularInformation) as raised:
            fit_cox(mode(split((doubled, time, event))), (*NAMES, "sum"))
        assert raised.value.covariate == "sum"


def test_a_covariate_that_separates_the_events_is_named() -> None:
    rng = np.random.default_rng(15)
    x, time, event = cohort(15)
    never = np.where(event, 0.0, rng.integers(0, 2, time.size))  # nobody with it has an event
    rare = np.zeros(time.size)
    rare[np.flatnonzero(~event & (time > np.median(time)))[0]] = 1.0
    order = -time + np.where(event, 0.5, 0.0)  # the next event is always the one of the highest value
    for mode in (shared, stratified):
        for separating in (never, rare, order / order.std()):
            table = np.column_stack([x, separating])
            with pytest.raises(Separation, match="'marker' separates") as raised:
                fit_cox(mode(split((table, time, event))), (*NAMES, "marker"), most_iterations=60)
            assert raised.value.covariate == "marker"


def test_a_cohort_is_separated_exactly_where_a_linear_programme_finds_a_separating_direction() -> None:
    from scipy.optimize import linprog

    seen = {True: 0, False: 0}
    for seed in range(60):
        rng = np.random.default_rng(10_000 + seed)
        count = int(rng.integers(6, 16))
        x = np.column_stack([rng.normal(size=count), rng.integers(0, 2, count)])
        time, event = rng.permutation(count) + 1.0, rng.random(count) < 0.5
        ahead = np.concatenate([x[i] - x[time > time[i]] for i in np.flatnonzero(event)] or [np.empty((0, 2))])
        if event.sum() < 2 or np.linalg.matrix_rank(ahead) < 2:
            continue
        best = linprog(-ahead.sum(axis=0), A_ub=-ahead, b_ub=np.zeros(len(ahead)), bounds=[(-1, 1)] * 2)
        separated = bool(best.fun < -1e-7)
        seen[separated] += 1
        if separated:
            with pytest.raises(Separation):
                fit_cox(stratified([(x, time, event)]), NAMES[:2])
        else:
            assert fit_cox(stratified([(x, time, event)]), NAMES[:2]).converged
    assert min(seen.values()) >= 10


def test_no_event_and_one_event_are_refused() -> None:
    x, time, _ = cohort(16, count=30)
    none = np.zeros(30, dtype=bool)
    one = none.copy()
    one[np.argmin(time)] = True
    with pytest.raises(TooFewEvents, match="no events"):
        fit_cox(stratified([(x, time, none)]), NAMES)
    with pytest.raises(TooFewEvents, match="no events"):
        fit_cox(shared([(x, time, none)], [100.0, 200.0]), NAMES)
    with pytest.raises(TooFewEvents, match="1 event on"):
        fit_cox(shared([(x, time, one)]), NAMES)


def test_iterations_that_run_out_are_told() -> None:
    found = fit_cox(stratified(split(cohort(17))), NAMES, most_iterations=2)
    assert not found.converged
    assert found.iterations == 2


def test_a_step_that_lowers_the_likelihood_is_halved() -> None:
    """Outliers of a covariate with heavy tails let a Newton step overshoot."""
    rng = np.random.default_rng(9)
    x, time, event = rng.standard_t(1.2, (20, 1)), rng.exponential(1, 20), rng.random(20) < 0.7
    seen: list[float] = []

    def ask(beta: Any) -> CoxDerivatives:
        found = cox_derivatives(x, time, event, beta)
        seen.append(found.log_likelihood)
        return found

    found = fit_cox(ask, ["outlier"])
    assert any(later < earlier - 1e-6 for earlier, later in pairwise(seen))
    assert found.converged
    assert found.log_likelihood == max(seen)
    assert found.beta[0] == pytest.approx(lifelines_fit([(x, time, event)]).params_.iloc[0], abs=1e-6)


def test_sums_of_other_covariates_times_or_ties_are_refused() -> None:
    x, time, event = cohort(18)
    beta = np.zeros(3)
    sums = cox_time_sums(x, time, event, [60.0, 120.0], beta)
    for other in (
        cox_time_sums(x, time, event, [60.0, 121.0], beta),
        cox_time_sums(x[:, :2], time, event, [60.0, 120.0], beta[:2]),
        cox_time_sums(x, time, event, [60.0, 120.0], beta, "breslow"),
    ):
        with pytest.raises(InputError, match="cannot be added"):
            sums + other
    with pytest.raises(InputError, match="cannot be added"):
        cox_derivatives(x, time, event, beta) + cox_derivatives(x[:, :1], time, event, beta[:1])
    with pytest.raises(InputError, match="sums of 3 covariates for 2"):
        fit_cox(lambda beta: sums, NAMES[:2])
    huge = CoxDerivatives(5, -1.0, np.ones(2), np.eye(2) * 1e308)
    with pytest.raises(InputError, match="overflow"):
        fit_cox(lambda beta: huge, NAMES[:2])
    with pytest.raises(InputError, match="no covariates"):
        fit_cox(lambda beta: sums, [])


def test_malformed_arrays_are_refused() -> None:
    x, time, event = cohort(19, count=20)
    beta = np.zeros(3)
    with pytest.raises(InputError, match="disagree"):
        cox_derivatives(x[:, :2], time, event, beta)
    with pytest.raises(InputError, match="not finite"):
        cox_derivatives(np.where(x > 60, np.nan, x), time, event, beta)
    with pytest.raises(InputError, match="overflows"):
        cox_time_sums(x, time, event, [60.0], beta + 100)
    with pytest.raises(InputError, match="ties 'exact'"):
        cox_time_sums(x, time, event, [60.0], beta, "exact")  # type: ignore[arg-type]
    for grid in ([], [60.0, 60.0], [-1.0, 60.0]):
        with pytest.raises(InputError, match="Cox grid"):
            cox_time_sums(x, time, event, grid, beta)


def change(sums: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the entry at ``path`` (keys and places, joined by dots) set, or multiplied where value is '*n'."""
    copy: dict[str, Any] = json.loads(json.dumps(sums))
    *above, last = (int(key) if key.isdigit() else key for key in path.split("."))
    holder: Any = copy
    for key in above:
        holder = holder[key]
    holder[last] = holder[last] * float(value[1:]) if isinstance(value, str) and value[0] == "*" else value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("extra", 1, "is unknown"),
        ("times_days", [1.0, 2.0, 3.0], "at other times"),
        ("events.0", -1, "whole number"),
        ("events.0", 0.5, "whole number"),
        ("events.0", 41, "more than the 40"),
        ("events", [0, 0, 0], "covariates of events"),
        ("event_x", [0.0], "shape"),
        ("at_risk.s0.0", "*-1", "not sums"),
        ("at_risk.s0.2", 1e6, "not part of the one before"),
        ("at_risk.s0.1", float("inf"), "not finite"),
        ("at_risk.s1.1.0", "*9", "not sums"),
        ("at_risk.s1.1.0", 1e308, "not sums"),
        ("at_risk.s2.0.0.0", "*-1", "not sums"),
        ("at_risk.s2.0.0.1", "*1.1", "not sums"),
        ("at_risk.s2.2.1.1", "*2", "not part of the one before"),
        ("at_risk", {"s0": [0, 0, 0], "s1": [[0, 0]] * 3, "s2": [[[0, 0], [0, 0]]] * 3}, "nobody at risk"),
        ("tied", None, "mapping"),
        ("tied.s0.0", 0.0, "not sums"),
        ("tied.s0.1", "*50", "not part of the risk set"),
        ("tied", {"s0": [0, 0, 0], "s1": [[0, 0]] * 3, "s2": [[[0, 0], [0, 0]]] * 3}, "sums over tied events"),
    ],
)
def test_sums_that_no_site_can_have_are_refused(path: str, value: Any, says: str) -> None:
    x, time, event = cohort(20, count=40)
    grid, beta = [300.0, 600.0, 900.0], np.array([0.01, 0.02])
    good = cox_time_sums(x[:, :2], time, event, grid, beta).plain()
    assert CoxTimeSums.from_plain(good, grid, 2, 40).plain() == good
    assert min(good["events"]) > 0
    with pytest.raises(InputError, match=says):
        CoxTimeSums.from_plain(change(good, path, value), grid, 2, 40)


def test_breslows_sums_hold_no_tied_ones() -> None:
    x, time, event = cohort(20, count=40)
    efron = cox_time_sums(x, time, event, [300.0, 600.0], np.zeros(3)).plain()
    with pytest.raises(InputError, match="Breslow's ties do not need"):
        CoxTimeSums.from_plain(efron, [300.0, 600.0], 3, 40, "breslow")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("extra", 1, "is unknown"),
        ("events", -1, "whole number"),
        ("events", 41, "more than the 40"),
        ("events", 0, "without events"),
        ("log_likelihood", 1.0, "above 1"),
        ("log_likelihood", float("nan"), "not finite"),
        ("gradient", [0.0], "shape"),
        ("information.0.0", "*-1", "not a covariance"),
        ("information.0.1", 1e6, "not a covariance"),
        ("information", [[1e-300, 1e300], [1e300, 1e-300]], "not a covariance"),
        ("information.1", [0.0, 0.0], "not a covariance"),
        ("information", [[0.0, 0.0], [0.0, 0.0]], "does not vary"),
    ],
)
def test_derivatives_that_no_site_can_have_are_refused(path: str, value: Any, says: str) -> None:
    x, time, event = cohort(21, count=40)
    good = cox_derivatives(x[:, :2], time, event, np.zeros(2)).plain()
    assert CoxDerivatives.from_plain(good, 2, 40).plain() == good
    with pytest.raises(InputError, match=says):
        CoxDerivatives.from_plain(change(good, path, value), 2, 40)


def test_merged_events_with_nobody_at_risk_are_refused() -> None:
    sums = cox_time_sums([[1.0]], [5.0], [1], [5.0], [0.0])
    emptied = CoxTimeSums(sums.times_days, sums.events * 2, sums.event_x, sums.tied, sums.at_risk)
    lone = derivatives_at(sums, [0.0])
    assert (lone.log_likelihood, lone.gradient.tolist(), lone.information.tolist()) == (0.0, [0.0], [[0.0]])
    object.__setattr__(emptied.at_risk, "s0", np.zeros(1))
    with pytest.raises(InputError, match="nobody at risk"):
        derivatives_at(emptied, [0.0])
