"""Survival curves of several models as one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adamss_fl.survival import survival_at


@dataclass(frozen=True)
class Curve:
    """A survival curve.

    days, survival : (T,) from day 0, where it is 1, to the horizon; linear in between.
    restricted_mean_days : expected event-free days up to the horizon.
    """

    days: tuple[float, ...]
    survival: tuple[float, ...]
    restricted_mean_days: float

    @property
    def horizon_days(self) -> float:
        """Last day of the curve."""
        return self.days[-1]


def average_curve(edges_days: Sequence[Sequence[float]], survival: Sequence[NDArray[np.float64]]) -> Curve:
    """The mean of one or more models' curves, each (K,) at the upper edges of its own time bins (K + 1,).

    Up to the earliest of the models' last edges, at all their edges. The restricted mean is the mean of the models'
    own, sum_k S(upper edge of bin k) * width_k, with the bin that holds the horizon cut there.
    """
    edges = [np.asarray(each, dtype=np.float64) for each in edges_days]
    horizon = min(float(each[-1]) for each in edges)
    days = np.unique(np.concatenate([[0.0, horizon], *[each[each < horizon] for each in edges]]))
    curves = [
        [float(survival_at(curve[None], each, day)[0]) for day in days]
        for each, curve in zip(edges, survival, strict=True)
    ]
    means = [float(curve @ np.diff(np.minimum(each, horizon))) for each, curve in zip(edges, survival, strict=True)]
    return Curve(
        days=tuple(float(day) for day in days),
        survival=tuple(float(value) for value in np.mean(curves, axis=0)),
        restricted_mean_days=float(np.mean(means)),
    )
