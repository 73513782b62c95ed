"""The log-rank test of G groups from counts per cell (``survival_counts``), over all sites or stratified by site.

Unstratified, the sites' counts are added and tested as one; stratified, patients are compared inside their site alone,
so that sites may differ in their baseline. The server needs each site's counts for that, not their sum alone; the
test shows no more than the counts do.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts
from adamss_fl.survival.curves import LogRank

LEAST_VARIANCE = 1e-10
"""Smallest eigenvalue of the correlation of the groups' events that still tells all groups apart."""


def grid_log_rank(strata: Sequence[SurvivalCounts]) -> LogRank:
    """Test that all groups have one survival curve: in each stratum if there are several, everywhere if there is one.

    Raises InputError for no strata or other edges or groups in one, fewer than two groups, a group without patients,
    or where events do not tell all groups apart (one has nobody at risk when events begin, or no stratum links it to
    the others).
    Source: Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data, 2nd edition (2002), 1.5.
    """
    if not strata:
        raise InputError("log-rank: no counts; give those of one site at least")
    whole = strata[0]
    for other in strata[1:]:
        whole = whole + other
    groups = whole.beyond.size
    if groups < 2 or not all(whole.of_group(group).patients for group in range(groups)):
        raise InputError("log-rank: fewer than two groups with patients; give at least two, and none that is empty")
    difference, covariance = np.zeros(groups), np.zeros((groups, groups))
    for stratum in strata:
        more, spread = _observed_less_expected(stratum)
        difference, covariance = difference + more, covariance + spread
    scale = np.sqrt(np.diagonal(covariance))
    if not (scale > 0).all() or _second_eigenvalue(covariance, scale) < LEAST_VARIANCE:
        raise InputError(
            "log-rank: the events do not tell all groups apart; give longer follow-up, fewer groups, or a test that is "
            "not stratified"
        )
    from scipy.special import chdtrc

    statistic = float(difference[:-1] @ np.linalg.solve(covariance[:-1, :-1], difference[:-1]))
    return LogRank(statistic, float(chdtrc(groups - 1, statistic)), groups - 1)


def _observed_less_expected(counts: SurvivalCounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Events less those expected (G,) and their hypergeometric covariance (G, G), of one stratum."""
    held = counts.events.sum(axis=0) > 0
    events = counts.events[:, held].astype(np.float64)
    at_risk = counts.at_risk[:, held].astype(np.float64)
    all_events, everybody = events.sum(axis=0), at_risk.sum(axis=0)
    share = at_risk / everybody
    spread = all_events * (everybody - all_events) / np.maximum(everybody - 1, 1)
    covariance = np.diag(share @ spread) - (share * spread) @ share.T
    return (events - share * all_events).sum(axis=1), covariance


def _second_eigenvalue(covariance: NDArray[np.float64], scale: NDArray[np.float64]) -> float:
    """Of the correlation; the smallest is 0, since the differences add up to 0."""
    return float(np.linalg.eigvalsh(covariance / np.outer(scale, scale))[1])
