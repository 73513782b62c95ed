"""Survival curves of models with time bins of their own, read and averaged on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.survival.calibration import survival_at


def common_edges(edges_days: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Days (M + 1,) on which all models can be read: the union of their edges, up to the last day that all reach.

    Models have edges of their own where these are quantiles of each one's training events. No curve is carried past
    its own last edge, so the shortest one decides where the common grid ends.
    """
    grids = [np.asarray(edges, dtype=np.float64) for edges in edges_days]
    union = np.unique(np.concatenate(grids))
    return np.asarray(union[union <= min(float(grid[-1]) for grid in grids)])


def read_at_edges(survival: ArrayLike | Tensor, own_days: ArrayLike, edges_days: ArrayLike) -> NDArray[np.float64]:
    """Curves (N, K) over the edges ``own_days`` (K + 1,), read at the upper ones of other edges (M + 1,): (N, M).

    Linear in between, see :func:`survival_at`. Raises InputError where the edges reach past the curves' last.
    """
    days = np.asarray(edges_days, dtype=np.float64)[1:]
    return np.stack([survival_at(survival, own_days, float(day)) for day in days], axis=1)


def average_curves(
    survival: Sequence[ArrayLike | Tensor], edges_days: Sequence[ArrayLike]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (N, M) of several models' curves of the same patients, and the edges (M + 1,) it is given on.

    survival : one (N, K) per model over its own ``edges_days`` (K + 1,).
    """
    edges = common_edges(edges_days)
    read = [read_at_edges(curves, own, edges) for curves, own in zip(survival, edges_days, strict=True)]
    return np.asarray(np.mean(read, axis=0)), edges


def restricted_mean(survival: NDArray[np.float64], edges_days: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected event-free days (N,) up to the last edge: sum_m S(upper edge_m) * width_m.

    So every bin counts with its lowest probability, as in ``TimeGrid.restricted_mean_days``.
    """
    return np.asarray(survival @ np.diff(edges_days))
