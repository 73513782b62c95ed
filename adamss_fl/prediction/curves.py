"""Survival curves of several models as one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adamss_fl.survival import average_curves, restricted_mean


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

    As an ensemble is judged: up to the earliest of the models' last edges, at all their edges, and with the restricted
    mean of the averaged curve.
    """
    mean, edges = average_curves([curve[None] for curve in survival], edges_days)
    return Curve(
        days=tuple(edges.tolist()),
        survival=(1.0, *mean[0].tolist()),
        restricted_mean_days=float(restricted_mean(mean, edges)[0]),
    )
