"""Kaplan-Meier curves of survival and of censoring from merged counts per cell (``survival_counts``).

Curves step at the cells' ends, where everyone of the cell is counted, events before the censored. The curves show no
more than the counts do, which say what they tell of a site's patients.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.censoring import CensoringCurve
from adamss_fl.federation.statistics.survival_counts import Counts, SurvivalCounts

NORMAL_QUANTILE = 1.959963984540054
"""Of 0.975, for two-sided 95 % bounds."""
ROUNDING = 1e-12

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GridKaplanMeier:
    """A Kaplan-Meier curve: right-continuous steps at ``edges_days`` (the first is 0), with 95 % log-log bounds.

    at_risk, events, censored, survival, ci_low, ci_high : (K + 1,). beyond : patients followed past the last edge.
    """

    edges_days: tuple[float, ...]
    at_risk: Counts
    events: Counts
    censored: Counts
    beyond: int
    survival: Array
    ci_low: Array
    ci_high: Array

    @property
    def median_days(self) -> float | None:
        """The first edge where survival is 1/2 or less; None where it stays above."""
        return _first_half(self.edges_days, self.survival)

    @property
    def last_days(self) -> float:
        """The last edge up to which somebody was followed."""
        return self.edges_days[int(np.flatnonzero(self.at_risk)[-1])]

    def at(self, time_days: float) -> tuple[float, float, float] | None:
        """(survival, low, high) at a time; None after the last follow-up, unless the curve has reached 0 by then.

        Raises InputError for a negative time.
        """
        if not time_days >= 0:
            raise InputError(f"Kaplan-Meier: no curve at {time_days:g} days; give days of 0 or more")
        if time_days > self.last_days and self.survival[-1] > 0:
            return None
        step = int(np.searchsorted(self.edges_days, time_days, side="right")) - 1
        return float(self.survival[step]), float(self.ci_low[step]), float(self.ci_high[step])


def grid_kaplan_meier(counts: SurvivalCounts, group: int | None = None) -> GridKaplanMeier:
    """The curve of one group, or of all groups together, with log-log Greenwood 95 % bounds.

    Where the curve is still 1 the bounds are 1; where it has fallen to 0 (no variance) they are 0 and the last defined
    upper bound. Raises InputError where there are no patients.
    Source: Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data, 2nd edition (2002), 1.4.
    """
    events, censored, at_risk, beyond = _one_group(counts, group)
    survival = _product(events, at_risk)
    inside = (survival < 1) & (survival > 0)
    left = np.where(events < at_risk, at_risk - events, 1).astype(np.float64)
    variance = np.cumsum(np.where(at_risk > 0, events / (np.maximum(at_risk, 1) * left), 0.0))
    log_survival = np.log(np.where(inside, survival, 0.5))
    spread = np.exp(NORMAL_QUANTILE * np.sqrt(variance) / -log_survival)
    low = np.where(inside, np.exp(log_survival * spread), np.where(survival >= 1, 1.0, 0.0))
    high = np.where(inside, np.exp(log_survival / spread), 1.0)
    over = survival <= 0
    if over.any():
        high[over] = high[~over][-1] if (~over).any() else 1.0
    return GridKaplanMeier(counts.edges_days, at_risk, events, censored, beyond, survival, low, high)


def censoring_curve(counts: SurvivalCounts, group: int | None = None) -> CensoringCurve:
    """The reverse Kaplan-Meier curve, of one group or of all together, up to the last edge with somebody followed.

    At a cell's end those with an event have left before the censored do, as in scikit-survival's
    CensoringDistributionEstimator. On a coarse grid, weight a patient by the curve at the end of the time's cell.
    Raises InputError where there are no patients.
    """
    events, censored, at_risk, _ = _one_group(counts, group)
    ends = int(np.flatnonzero(at_risk)[-1]) + 1
    curve = _product(censored, at_risk - events)
    return CensoringCurve(np.asarray(counts.edges_days[:ends]), curve[:ends])


def median_follow_up(curve: CensoringCurve) -> float | None:
    """Days to where half would have been censored, had nobody an event; None where the curve stays above 1/2.

    Source: Schemper and Smith, Controlled Clinical Trials 17:343 (1996).
    """
    return _first_half(curve.times, curve.survival)


def _first_half(days: ArrayLike, falling: Array) -> float | None:
    """The first time where a curve is 1/2 or less, up to rounding."""
    reached = np.flatnonzero(falling <= 0.5 + ROUNDING)
    return float(np.asarray(days)[reached[0]]) if reached.size else None


def _one_group(counts: SurvivalCounts, group: int | None) -> tuple[Counts, Counts, Counts, int]:
    chosen = counts.together() if group is None else counts.of_group(group)
    if chosen.patients == 0:
        raise InputError("Kaplan-Meier: no patients; give at least one")
    return chosen.events[0], chosen.censored[0], chosen.at_risk[0], int(chosen.beyond[0])


def _product(leaving: Counts, at_risk: Counts) -> Array:
    return np.asarray(np.cumprod(1.0 - leaving / np.maximum(at_risk, 1)), dtype=np.float64)
