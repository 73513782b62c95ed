"""Calibration at a horizon: predicted survival against what was observed, by groups of predicted risk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.survival.curves import kaplan_meier, risk_groups
from adamss_fl.survival.endpoints import check_endpoints, to_float64


@dataclass(frozen=True)
class CalibrationGroup:
    """One group: mean predicted survival at the horizon, and the Kaplan-Meier estimate with its 95 % bounds.

    observed, low, high are None where the group's follow-up ends before the horizon.
    """

    predicted: float
    observed: float | None
    low: float | None
    high: float | None
    patients: int
    events: int


def survival_at(survival: ArrayLike | Tensor, edges_days: ArrayLike, horizon_days: float) -> NDArray[np.float64]:
    """Predicted survival (N,) at a horizon, from curves (N, K) at the upper edges, linear between edges, 1 at day 0.

    Raises InputError where the horizon lies outside the grid or shapes disagree.
    """
    curves, edges = to_float64(survival), np.asarray(edges_days, dtype=np.float64)
    if curves.ndim != 2 or edges.shape != (curves.shape[1] + 1,):
        raise InputError(
            f"calibration: curves {curves.shape} and edges {edges.shape} disagree; give (N, K) and (K + 1,)"
        )
    if not 0 <= horizon_days <= edges[-1]:
        raise InputError(
            f"calibration: horizon of {horizon_days:g} days lies outside 0 to {edges[-1]:g}; choose one inside"
        )
    padded = np.concatenate([np.ones((curves.shape[0], 1)), curves], axis=1)
    k = min(int(np.searchsorted(edges, horizon_days, side="right")), edges.size - 1)
    share = (horizon_days - edges[k - 1]) / (edges[k] - edges[k - 1])
    return np.asarray(padded[:, k - 1] * (1 - share) + padded[:, k] * share)


def calibration(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    predicted: ArrayLike | Tensor,
    horizon_days: float,
    groups: int = 4,
) -> tuple[CalibrationGroup, ...]:
    """Groups of equal size by predicted survival, from the lowest predicted survival to the highest.

    time_days, event : (N,); predicted : (N,) survival probability at ``horizon_days``. Events are those up to the
    horizon. Equal predictions share a group; empty groups are left out. Raises InputError for bad input.
    """
    times, events = check_endpoints(time_days, event)
    survival = to_float64(predicted)
    if survival.shape != times.shape:
        raise InputError(f"calibration: {survival.shape} predictions for {times.shape} patients; give one per patient")
    if not (np.isfinite(survival) & (survival >= 0) & (survival <= 1)).all():
        raise InputError("calibration: a predicted survival lies outside 0 to 1; give probabilities")
    label = risk_groups(survival, groups)
    rows = []
    for group in np.unique(label):
        members = label == group
        observed = kaplan_meier(times[members], events[members]).at(horizon_days)
        rows.append(
            CalibrationGroup(
                predicted=float(survival[members].mean()),
                observed=observed[0] if observed else None,
                low=observed[1] if observed else None,
                high=observed[2] if observed else None,
                patients=int(members.sum()),
                events=int((events & members & (times <= horizon_days)).sum()),
            )
        )
    return tuple(rows)
