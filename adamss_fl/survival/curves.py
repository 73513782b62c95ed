"""Kaplan-Meier curves, log-rank tests and groups of predicted risk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.survival.concordance import check_risk
from adamss_fl.survival.endpoints import check_endpoints, to_float64


@dataclass(frozen=True)
class KaplanMeier:
    """A Kaplan-Meier curve: right-continuous steps at ``times`` (days, the first is 0), with 95 % log-log bounds.

    times, survival, ci_low, ci_high : (T,); observed_days : (N,) all follow-up times, ascending, behind ``at_risk``.
    """

    times: NDArray[np.float64]
    survival: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]
    observed_days: NDArray[np.float64]

    def at_risk(self, times_days: ArrayLike) -> NDArray[np.int64]:
        """Patients still followed just before each time."""
        before = np.searchsorted(self.observed_days, np.asarray(times_days, dtype=np.float64), side="left")
        return np.asarray(self.observed_days.size - before, dtype=np.int64)

    def at(self, time_days: float) -> tuple[float, float, float] | None:
        """(survival, low, high) at a time; None after the last follow-up, unless the curve has reached 0 by then."""
        if time_days > self.observed_days[-1] and self.survival[-1] > 0:
            return None
        step = int(np.searchsorted(self.times, time_days, side="right")) - 1
        return float(self.survival[step]), float(self.ci_low[step]), float(self.ci_high[step])


@dataclass(frozen=True)
class LogRank:
    """A log-rank test: chi-squared statistic, its degrees of freedom (groups - 1) and the p-value."""

    statistic: float
    p_value: float
    degrees_of_freedom: int


def kaplan_meier(time_days: ArrayLike | Tensor, event: ArrayLike | Tensor) -> KaplanMeier:
    """The Kaplan-Meier curve of (N,) days and events, by lifelines, with log-log Greenwood 95 % bounds.

    Where the curve is still 1 the bounds are 1; where it has fallen to 0 (no variance) they are 0 and the last defined
    upper bound. Raises InputError for bad endpoints or no patients.
    """
    times, events = check_endpoints(time_days, event)
    if times.size == 0:
        raise InputError("Kaplan-Meier: no patients; give at least one")
    from lifelines import KaplanMeierFitter

    fitter = KaplanMeierFitter().fit(times, events)
    survival = fitter.survival_function_.iloc[:, 0].to_numpy(dtype=np.float64)
    bounds = fitter.confidence_interval_survival_function_.to_numpy(dtype=np.float64)
    low, high = bounds[:, 0].copy(), bounds[:, 1].copy()
    whole, over = survival >= 1, survival <= 0
    low[whole] = high[whole] = 1.0
    low[over] = 0.0
    if over.any():
        high[over] = high[~over][-1]
    return KaplanMeier(
        times=fitter.survival_function_.index.to_numpy(dtype=np.float64),
        survival=survival,
        ci_low=low,
        ci_high=high,
        observed_days=np.sort(times),
    )


def logrank(*groups: tuple[ArrayLike | Tensor, ArrayLike | Tensor]) -> LogRank:
    """Log-rank test that all groups, each (times_days, events), have one survival curve, by lifelines.

    Raises InputError for fewer than two groups, an empty group, or where no event tells them apart.
    """
    checked = [check_endpoints(times, events) for times, events in groups]
    if len(checked) < 2 or any(times.size == 0 for times, _ in checked):
        raise InputError("log-rank: fewer than two groups with patients; give at least two")
    times = np.concatenate([group[0] for group in checked])
    events = np.concatenate([group[1] for group in checked])
    label = np.repeat(np.arange(len(checked)), [group[0].size for group in checked])
    at_first_event = times >= times[events].min() if events.any() else np.zeros(times.shape, dtype=bool)
    if np.unique(label[at_first_event]).size < len(checked):
        raise InputError(
            "log-rank: a group has nobody at risk when events begin; give longer follow-up or fewer groups"
        )
    from lifelines.statistics import multivariate_logrank_test

    result = multivariate_logrank_test(times, label, events)
    if not np.isfinite(result.test_statistic):
        raise InputError("log-rank: the events do not tell the groups apart; give more patients")
    return LogRank(float(result.test_statistic), float(result.p_value), len(checked) - 1)


def risk_groups(risk: ArrayLike | Tensor, groups: int = 2) -> NDArray[np.int64]:
    """Group (N,) of each patient, 0 the lowest risk, cut at the quantiles of ``risk`` (two groups: at the median).

    Equal risks share a group, so that groups may be unequal, or empty where all risks are equal.
    """
    values = check_risk(risk, to_float64(risk).size)
    if groups < 2 or values.size == 0:
        raise InputError(f"risk groups: {groups} groups of {values.size} patients; give at least 2 and some patients")
    cuts = np.quantile(values, np.arange(1, groups) / groups)
    return np.searchsorted(cuts, values, side="left").astype(np.int64)
